"""Which samples come when: order, batches, parts of ranks, number of the view."""

import numpy as np
from numpy.typing import NDArray

from pipeline.views.counter import Stream, words

RUN = 64  # neighbours that stay together in the quasi-random order
GROUP = 64  # runs that are shuffled into one another: 4,096 samples, about 450 MB of ImageNet


def _shuffle(high: NDArray[np.int64], low: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions sorted by the unsigned 64-bit key (high, low), equal keys by position."""
    key = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
    return np.argsort(key, kind="stable").astype(np.int64)


def order(seed: int, epoch: int, n: int, stream: Stream = Stream.ORDER) -> NDArray[np.int64]:
    """Permutation of 0..n-1, int64 [n]: global batch b of B rows is `order[b * B : (b + 1) * B]`."""
    high, low, _, _ = words(seed, stream, np.arange(n, dtype=np.int64), epoch)
    return _shuffle(high, low)


def _quasi_random(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """Runs of RUN neighbours in random order, shuffled within groups of GROUP runs: reads stay near one another."""
    run_N = np.arange(n, dtype=np.int64) // RUN
    place_R = np.empty(int(run_N[-1]) + 1 if n else 0, dtype=np.int64)
    place_R[order(seed, epoch, len(place_R), Stream.RUNS)] = np.arange(len(place_R))
    high, low, _, _ = words(seed, Stream.ORDER, np.arange(n, dtype=np.int64), epoch)
    return np.lexsort((_rank_of(high, low), place_R[run_N] // GROUP)).astype(np.int64)


def _rank_of(high: NDArray[np.int64], low: NDArray[np.int64]) -> NDArray[np.int64]:
    rank_N = np.empty(len(high), dtype=np.int64)
    rank_N[_shuffle(high, low)] = np.arange(len(high))
    return rank_N


def _sequential(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64)


_ORDERS = {"random": order, "quasi_random": _quasi_random, "sequential": _sequential}
ORDERS = tuple(_ORDERS)


def epoch_order(kind: str, seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """Permutation of 0..n-1 of one of ORDERS: random; quasi_random, for slow disks; as stored."""
    return _ORDERS[kind](seed, epoch, n)


def partners(seed: int, view: int, step: int, rows: int) -> NDArray[np.int64]:
    """Permutation of the rows of the global batch `step`, int64 [rows]: row i is mixed with row partners[i]."""
    high, low, _, _ = words(seed, Stream.PARTNER, np.arange(rows, dtype=np.int64), view, step)
    return _shuffle(high, low)


def rank_slice(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """(start, stop) of the part of `rows` rows that `rank` of `ranks` takes: the parts differ by one row at most."""
    return rank * rows // ranks, (rank + 1) * rows // ranks


def steps_per_epoch(n: int, batch: int) -> int:
    """Batches that hold n samples, the short last one included."""
    return -(-n // batch)


def view_of(epoch: int, views: int | None = None) -> int:
    """View shown in `epoch`: a new one each epoch, or the first `views` over and over (a cached teacher of V views)."""
    return epoch if views is None else epoch % views
