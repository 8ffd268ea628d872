"""`ffcv`: images of a .beton file, decoded by threads in compiled code that holds no lock.

FFCV's file format and its C routines, in our own order and windows. Its Loader is not used (docs/loader_ffcv.md has the
figures): it holds dictionaries of Python objects for every sample, has one batch size, drains at the end of an
epoch, compiles again for another image size, and sets torch's number of threads.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders import LOADERS
from pipeline.loaders.augment_ops import operated
from pipeline.loaders.base import EpochLoader, Reads
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.cpu_batches import Task
from pipeline.loaders.epoch_stream import Chain
from pipeline.loaders.ffcv.file import open_beton
from pipeline.loaders.ffcv.geometry import geometry

CHUNK = 16  # images per task: small enough to share a batch among threads, large against the cost of a task (70 us)


class Part(NamedTuple):
    """Rows start..stop of a batch: what a thread does at a time. index_B, row_B16: of these rows."""

    start: int
    view: int
    index_B: NDArray[np.int64]
    row_B16: NDArray[np.int64]


class Started(NamedTuple):
    """A batch under way: its pixels, and the threads' parts of it."""

    pixels_BHWC: Tensor
    parts: Sequence[Future[None]]


@LOADERS.register("ffcv")
class BetonLoader(EpochLoader):
    """data.workers threads (one where it is 0); the batches of the next epoch follow without a gap.

    train, test: the .beton files of the two splits. cache: `os` maps them, `memory` reads them. Raises InputError for a
    missing, damaged or foreign file, without FFCV, and for rotation.
    """

    looks_ahead = True
    section = "ffcv"

    def __init__(
        self,
        image_set: ImageSet,
        config: LoaderConfig,
        train: str | None = None,
        test: str | None = None,
        cache: str = "os",
        batches_ahead: int = 3,
    ) -> None:
        super().__init__(image_set, config)
        if config.degrees:
            raise InputError("the ffcv loader cannot rotate images (data.rotation): use data.loader=torch")
        path = {"train": train, "test": test}[image_set.split]
        if path is None:
            raise InputError(
                f"data.loader=ffcv needs data.ffcv.{image_set.split}=FILE.beton: data_prep/write_beton.py writes it"
            )
        self._beton = open_beton(Path(path), image_set, cache)
        from pipeline.loaders.ffcv import decoder  # needs FFCV and numba

        self._decoder: Any = decoder
        self._device = torch.device(config.device)
        self._operated = [stream.kind for stream in config.drawn_by(views.OP_KINDS).values()]
        self._threads = ThreadPoolExecutor(max(1, config.data.workers))
        self._planner = ThreadPoolExecutor(1)
        self._batches_ahead = batches_ahead
        self._own = threading.local()
        self._chain: Chain[Tensor] = Chain(self.following)

    @property
    def pixels(self) -> str:
        return f"beton {self._beton.tables}"

    def _pixels(self, todo: Reads) -> Iterator[Tensor]:
        for pixels_BHWC in self._chain.batches(todo, self._made):
            yield pixels_BHWC.to(self._device, non_blocking=True)

    def _made(self, tasks: Iterator[Task]) -> Iterator[Tensor]:
        """The pixels of each task in turn, uint8 in the host's memory; batches_ahead of them are under way."""
        waiting: deque[Future[Started]] = deque()
        try:
            for task in tasks:
                waiting.append(self._planner.submit(self._begin, task))
                if len(waiting) > self._batches_ahead:
                    yield _finished(waiting.popleft().result())
            while waiting:
                yield _finished(waiting.popleft().result())
        finally:
            _cancel(waiting)

    def _begin(self, task: Task) -> Started:
        """Draws the batch and hands its parts to the threads."""
        rows = len(task.index_B)
        own = rows if task.own is None else task.own
        size = task.size or self.config.image_size
        shape = (rows + len(self._operated) * own, size, size, 3)
        # On the host NumPy's memory, which comes in huge pages.
        pixels_BHWC = (
            torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            if self._device.type == "cuda"
            else torch.from_numpy(np.empty(shape, dtype=np.uint8))
        )
        row_B16 = geometry(self._beton, self.config, task.view, task.index_B, size)
        parts = []
        for start in range(0, rows, CHUNK):
            chunk = slice(start, start + CHUNK)
            part = Part(start, task.view, task.index_B[chunk], row_B16[chunk])
            parts.append(self._threads.submit(self._work, part, rows, own, pixels_BHWC.numpy()))
        return Started(pixels_BHWC, parts)

    def _work(self, part: Part, rows: int, own: int, pixels_BHWC: NDArray[np.uint8]) -> None:
        """Decodes the part, then makes its views by operations, which lie behind all `rows` that are read."""
        stop = part.start + len(part.index_B)
        image_BHWC = pixels_BHWC[part.start : stop]
        if not hasattr(self._own, "scratch"):
            self._own.scratch = self._decoder.Scratch()
        self._check_sums(part.index_B)
        bad = self._decoder.decode_rows(self._beton.content, part.row_B16, image_BHWC, self._own.scratch)
        if bad >= 0:
            raise InputError(self._refused(int(part.index_B[bad]), "it is no JPEG that FFCV reads"))
        if bad < self._decoder.DONE:
            index = int(part.index_B[self._decoder.DONE - 1 - bad])
            raise InputError(self._refused(index, "its size is not that of the file's table"))
        mine = max(0, min(stop, own) - part.start)  # those that the views are made of
        for k, kind in enumerate(self._operated if mine else ()):
            at = rows + k * own + part.start
            pixels_BHWC[at : at + mine] = operated(image_BHWC[:mine], part.index_B[:mine], part.view, kind, self.config)

    def _check_sums(self, index_B: NDArray[np.int64]) -> None:
        """Sums of what is read, each time: 0.03 ms for an image of 110 kB, of about 2 ms that it takes."""
        for index in index_B.tolist():
            if not self._beton.is_whole(index):
                raise InputError(self._refused(index, "its bytes are not those that were written"))

    def _refused(self, index: int, why: str) -> str:
        name = self.image_set.class_names[int(self.image_set.label_N[index])]
        return f"cannot decode image {index} (class {name!r}) of {self._beton.path}: write it again ({why})"


def _finished(batch: Started) -> Tensor:
    for part in batch.parts:
        part.result()
    return batch.pixels_BHWC


def _cancel(waiting: Iterable[Future[Started]]) -> None:
    """What has not begun is not done."""
    for batch in waiting:
        if not batch.cancel() and batch.exception() is None:
            for part in batch.result().parts:
                part.cancel()
