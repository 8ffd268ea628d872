"""Pixels of a batch made on the host: decode, cut, mirror, rotate, then the views by operations on bytes."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.datasets.replacing import Replaced, ReplacingSet
from pipeline.loaders.augment_ops import operated
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.pixels import fit
from pipeline.loaders.random_resized_crop import Windows


class Task(NamedTuple):
    """The samples of one batch and the view to show of them: all that a worker needs, whatever came before.

    own: how many of them, from the first, are the batch's own and get the further views; None = all. size: side of the
    images in pixels; None = that of the configuration. number: of the task in its chain; None = in none. done: the
    pixels of tasks below this number are no longer looked at.
    """

    view: int
    index_B: NDArray[np.int64]
    own: int | None = None
    size: int | None = None
    number: int | None = None
    done: int = 0


class Made(NamedTuple):
    """pixels_BHWC: uint8, of a task. replaced: those of its images that could not be read, by position in the set."""

    pixels_BHWC: Tensor
    replaced: dict[int, Replaced]


class _SharedRoom:
    """A worker's uint8 memory, which lies where the trainer can see it: that spares a copy of the batch.

    It is written again once the trainer has done with it, which makes three batches for a worker. New pages for each
    batch were 7 % of a worker's time (64 images of 224 pixels: 8 ms, written again 0.3).
    """

    def __init__(self) -> None:
        self._lent: list[tuple[int, Tensor]] = []  # by number of the task

    def take(self, size: int, task: Task) -> Tensor:
        """`size` bytes for the pixels of a task."""
        free = [room for number, room in self._lent if number < task.done and len(room) >= size]
        room = free[0] if free else _shared(size)
        self._lent = [(number, lent) for number, lent in self._lent if number >= task.done]
        if task.number is not None:
            self._lent.append((task.number, room))
        return room[:size]


def _shared(size: int) -> Tensor:
    one = torch.empty(0, dtype=torch.uint8)
    return one.new(one.untyped_storage()._new_shared(size))


class HostBatches(Dataset[Any]):
    """Turns a task into the pixels of its batch, uint8 [B, S, S, 3]. Picklable, so that workers may be spawned.

    The views that are made by operations follow in turn, `own` rows each. A worker hands an InputError back as a
    value: raised in a worker it would arrive wrapped into a traceback.
    """

    def __init__(self, image_set: ImageSet, config: LoaderConfig) -> None:
        self.image_set = image_set
        self.config = config
        self.operated = config.drawn_by(views.OP_KINDS)
        self._windows = Windows(image_set, config) if config.windows else None
        self._shared = _SharedRoom()

    def __getitem__(self, task: Task) -> Made | InputError:
        try:
            return Made(self.pixels(task), self._replaced(task))
        except InputError as error:
            return error

    def _replaced(self, task: Task) -> dict[int, Replaced]:
        known = self.image_set.replaced if isinstance(self.image_set, ReplacingSet) else {}
        # With every batch that shows one: a batch may be made and never handed out.
        return {index: known[index] for index in task.index_B.tolist() if index in known} if known else {}

    def pixels(self, task: Task) -> Tensor:
        """The same, but raises the InputError of an image that cannot be read."""
        rows, size = len(task.index_B), task.size or self.config.image_size
        own = rows if task.own is None else task.own
        made = self._room((rows + own * len(self.operated), size, size, 3), task)
        pixels = made.numpy()[:rows]
        if self._windows is None:
            self._crops(task, pixels)
        else:
            self._windows.cut(task.view, task.index_B, pixels)
        if self.config.degrees:
            pixels[:] = self._rotated(pixels, task)
        for start, stream in zip(range(rows, len(made), own), self.operated.values(), strict=True):
            views_BHWC = operated(pixels[:own], task.index_B[:own], task.view, stream.kind, self.config)
            made[start : start + own] = torch.from_numpy(views_BHWC)
        return made

    def _room(self, shape: tuple[int, ...], task: Task) -> Tensor:
        if get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8)
        return self._shared.take(math.prod(shape), task).view(shape)

    def _crops(self, task: Task, pixels: NDArray[np.uint8]) -> None:
        """Fills in the images at image_size, cut out of their padded selves where a border is asked for."""
        config, size, border = self.config, self.config.image_size, self.config.border
        for b, index in enumerate(task.index_B.tolist()):
            pixels[b] = fit(self.image_set.read(index), config.shorter_side, size)
        if border:
            padded = np.pad(pixels, ((0, 0), (border, border), (border, border), (0, 0)))
            top_B, left_B = views.crop_offsets(config.data.seed, task.view, task.index_B, border)
            for b, (top, left) in enumerate(zip(top_B.tolist(), left_B.tolist(), strict=True)):
                pixels[b] = padded[b, top : top + size, left : left + size]
        if config.mirrors:
            flip_B = np.asarray(views.flips(config.data.seed, task.view, task.index_B))
            pixels[flip_B] = pixels[flip_B, :, ::-1]

    def _rotated(self, pixels: NDArray[np.uint8], task: Task) -> NDArray[np.uint8]:
        size, at_S = pixels.shape[1], np.arange(pixels.shape[1])
        angle_B = views.rotation_angles(self.config.data.seed, task.view, task.index_B, self.config.degrees)
        y, x, inside = views.rotation_sources(views.rotation_matrices(angle_B, size, size), at_S, at_S)
        sample = np.arange(len(pixels))[:, None, None]
        return np.where(inside[..., None], pixels[sample, np.where(inside, y, 0), np.where(inside, x, 0)], np.uint8(0))
