"""Views by operations for a set whose pixels lie in memory: made on the host in threads, a few batches ahead."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.datasets.image_set import ImageSet
from pipeline.loaders.epochs import Reads
from pipeline.loaders.host import HostBatches, Task
from pipeline.loaders.plan import Plan

AHEAD = 2  # batches per thread


@dataclass(frozen=True, kw_only=True)
class FittedSet(ImageSet):
    """What a loader keeps of `index_N` of a set: pixels_NHWC, already of the image size."""

    pixels_NHWC: NDArray[np.uint8]
    row_of: dict[int, int]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels_NHWC[self.row_of[index]]


class OperatedAhead:
    """The other loader's code on pixels in memory, so that both give the same bits.

    Two threads are no faster than one on images of 32 pixels (about 7 ms for 64 of them on a Xeon at 2.5 GHz, Pillow
    13): most of it is Python. Where a step is shorter than that, the torch loader's processes are the better choice.
    """

    def __init__(self, image_set: ImageSet, plan: Plan, index_N: NDArray[np.int64], pixels_NHWC: Tensor) -> None:
        fitted = FittedSet(
            name=image_set.name,
            split=image_set.split,
            label_N=image_set.label_N,
            class_names=image_set.class_names,
            pixels_NHWC=pixels_NHWC.numpy(),
            row_of={index: row for row, index in enumerate(index_N.tolist())},
        )
        # The pixels are resized already: fit must leave them as they are.
        self._work = HostBatches(fitted, replace(plan, resize=None))
        self._threads = max(1, plan.workers)
        self._device = torch.device(plan.device)

    def _make(self, task: Task) -> Tensor:
        pixels_BHWC = self._work.pixels(task)[len(task.index_B) :]
        return pixels_BHWC.pin_memory() if self._device.type == "cuda" else pixels_BHWC

    def __call__(self, todo: Reads) -> Iterator[Tensor]:
        """For each read the views by operations of its own rows, in turn: uint8 on the device."""
        tasks = (Task(todo.view, todo.index_M[start : start + own]) for start, _, own in todo.reads)
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[Future[Tensor]] = deque()
            try:
                for task in tasks:
                    waiting.append(pool.submit(self._make, task))
                    if len(waiting) > AHEAD * self._threads:
                        yield waiting.popleft().result().to(self._device, non_blocking=True)
                while waiting:
                    yield waiting.popleft().result().to(self._device, non_blocking=True)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
