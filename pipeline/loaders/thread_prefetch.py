"""Batches made on the host in threads, a few ahead, by the other loader's code: both give the same bits."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.datasets.image_set import ImageSet
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.cpu_batches import HostBatches, Task

AHEAD = 2  # batches per thread


@dataclass(frozen=True, kw_only=True)
class FittedSet(ImageSet):
    """What a loader keeps of `index_N` of a set: pixels_NHWC, already of the image size."""

    pixels_NHWC: NDArray[np.uint8]
    row_of: dict[int, int]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels_NHWC[self.row_of[index]]


def fitted(image_set: ImageSet, index_N: NDArray[np.int64], pixels_NHWC: Tensor) -> FittedSet:
    """The set whose images `index_N` lie in memory. HostBatches over it needs data.resize=None: then they stay so."""
    return FittedSet(
        name=image_set.name,
        split=image_set.split,
        label_N=image_set.label_N,
        class_names=image_set.class_names,
        pixels_NHWC=pixels_NHWC.numpy(),
        row_of={index: row for row, index in enumerate(index_N.tolist())},
    )


class MadeAhead:
    """Makes tasks in data.workers threads (at least one), and keeps the threads between epochs.

    Two threads are no faster than one where images have 32 pixels (operations on 64 of them take about 7 ms on a Xeon
    at 2.5 GHz, Pillow 13): most of it is Python. Windows of large images are resized outside Python's lock.
    """

    def __init__(self, image_set: ImageSet, config: LoaderConfig) -> None:
        self._work = HostBatches(image_set, config)
        self._threads = max(1, config.data.workers)
        self._pool = ThreadPoolExecutor(self._threads)
        self._pinned = torch.device(config.device).type == "cuda"

    def _make(self, task: Task) -> Tensor:
        pixels_BHWC = self._work.pixels(task)
        return pixels_BHWC.pin_memory() if self._pinned else pixels_BHWC

    def __call__(self, tasks: Iterator[Task]) -> Iterator[Tensor]:
        """For each task its pixels, uint8 in the host's memory, in turn."""
        waiting: deque[Future[Tensor]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(self._make, task))
                if len(waiting) > AHEAD * self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for made in waiting:
                made.cancel()
