"""Images/s of an endless stream of batches, timed across the borders of epochs."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pipeline.contracts import Loader
from pipeline.measure.keys import LEAST_STEPS
from pipeline.measure.rounds import SPEED, Round, cpu_seconds, per_core

Stream = Iterator[tuple[int, bool]]  # rows of a batch, and whether it begins an epoch
WINDOW = 8  # batches around a border of epochs


def of_loader(loader: Loader, first_step: int = 0) -> Stream:
    """Epoch after epoch of one of our loaders, from `first_step` of the first one on."""
    for epoch in itertools.count():
        loader.set_epoch(epoch, first_step if epoch == 0 else 0)
        for step, batch in enumerate(loader):
            yield len(batch.label_B), step == 0


def of_batches(epoch: Callable[[], Iterable[Any]], rows_of: Callable[[Any], int]) -> Stream:
    """Epoch after epoch: the batches of each are what `epoch` gives."""
    while True:
        for step, batch in enumerate(epoch()):
            yield rows_of(batch), step == 0


def stretch(stream: Stream, *, steps: int, seconds: float, ahead: int, wait: Callable[[], None]) -> Round:
    """One round: `steps` batches, fewer when `seconds` have passed.

    ahead: batches before the clock starts. What a loader made while others were measured comes first and would count as
    work of no time. wait: returns when the device has finished.
    """
    for _ in range(ahead):
        next(stream)
    wait()
    rows: list[int] = []
    starts: list[bool] = []
    at = [time.perf_counter()]
    worked = cpu_seconds()
    begin = time.perf_counter()
    while len(rows) < steps and (len(rows) < LEAST_STEPS or at[-1] - begin < seconds):
        count, start = next(stream)
        rows.append(count)
        starts.append(start)
        at.append(time.perf_counter())
    wait()
    spent = time.perf_counter() - begin
    waits = [b - a for a, b in itertools.pairwise(at)]
    return {
        SPEED: sum(rows) / spent,
        "per_core": per_core(sum(rows), worked),
        "border_ratio": border_ratio(waits, rows, starts),
    }


def border_ratio(seconds: Sequence[float], rows: Sequence[int], starts: Sequence[bool]) -> float | None:
    """Images/s around the borders of epochs over images/s elsewhere: medians of short stretches of batches.

    seconds: waited for each batch; rows: its images; starts: it begins an epoch. None without stretches of both kinds.
    """
    starting = [i for i, start in enumerate(starts) if start]
    gaps = [b - a for a, b in itertools.pairwise(starting)]
    length = max(2, min([WINDOW, len(rows) // 3, *(gap // 2 for gap in gaps)]))
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for first in range(len(seconds) - length + 1):
        part = slice(first, first + length)
        spent = sum(seconds[part])
        if spent > 0:
            kinds[any(starts[part])].append(sum(rows[part]) / spent)
    if not kinds[True] or not kinds[False]:
        return None
    return statistics.median(kinds[True]) / statistics.median(kinds[False])
