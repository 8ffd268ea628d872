"""Which samples come when: order, batches, parts of ranks, number of the view."""

import numpy as np
from numpy.typing import NDArray

from pipeline.views.counter import Stream, words


def _shuffle(high: NDArray[np.int64], low: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions sorted by the unsigned 64-bit key (high, low), equal keys by position."""
    key = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
    return np.argsort(key, kind="stable").astype(np.int64)


def order(seed: int, epoch: int, n: int, stream: Stream = Stream.ORDER) -> NDArray[np.int64]:
    """Permutation of 0..n-1, int64 [n]: global batch b of B rows is `order[b * B : (b + 1) * B]`."""
    high, low, _, _ = words(seed, stream, np.arange(n, dtype=np.int64), epoch)
    return _shuffle(high, low)


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
