"""Pixels of a batch made on the host: decode, cut, mirror, rotate, then the views by operations on bytes."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders.operations import operated
from pipeline.loaders.pixels import cut, fit
from pipeline.loaders.plan import Plan


class Task(NamedTuple):
    """The samples of one batch and the view to show of them: all that a worker needs, whatever came before.

    own: how many of them, from the first, are the batch's own and get the further views; None = all. size: side of the
    images in pixels; None = the plan's.
    """

    view: int
    index_B: NDArray[np.int64]
    own: int | None = None
    size: int | None = None


class HostBatches(Dataset[Any]):
    """Turns a task into the pixels of its batch, uint8 [B, S, S, 3]. Picklable, so that workers may be spawned.

    The views that are made by operations follow in turn, `own` rows each. A worker hands an InputError back as a
    value: raised in a worker it would arrive wrapped into a traceback.
    """

    def __init__(self, image_set: ImageSet, plan: Plan) -> None:
        self.image_set = image_set
        self.plan = plan
        self.operated = plan.drawn_by(views.OP_KINDS)

    def __getitem__(self, task: Task) -> Tensor | InputError:
        try:
            return self.pixels(task)
        except InputError as error:
            return error

    def pixels(self, task: Task) -> Tensor:
        """The same, but raises the InputError of an image that cannot be read."""
        images = [self.image_set.read(i) for i in task.index_B.tolist()]
        pixels = self._windows(images, task) if self.plan.windows else self._crops(images, task)
        if self.plan.mirrors:
            flip_B = np.asarray(views.flips(self.plan.data_seed, task.view, task.index_B))
            pixels[flip_B] = pixels[flip_B, :, ::-1]
        if self.plan.degrees:
            pixels = self._rotated(pixels, task)
        return torch.from_numpy(self._with_operated(pixels, task) if self.operated else pixels)

    def _with_operated(self, pixels: NDArray[np.uint8], task: Task) -> NDArray[np.uint8]:
        own, index_B = pixels[: task.own], task.index_B[: task.own]
        made = [operated(own, index_B, task.view, stream.kind, self.plan) for stream in self.operated.values()]
        return np.concatenate([pixels, *made])

    def _windows(self, images: list[NDArray[np.uint8]], task: Task) -> NDArray[np.uint8]:
        """RandomResizedCrop: a window of each image, resized."""
        plan = self.plan
        height_B, width_B = np.array([image.shape[:2] for image in images], dtype=np.int64).T
        window_B4 = views.resized_crop_windows(
            plan.data_seed, task.view, task.index_B, height_B, width_B, plan.scale, plan.ratio
        )
        size = task.size or plan.image_size
        return np.stack([cut(image, window, size) for image, window in zip(images, window_B4, strict=True)])

    def _crops(self, images: list[NDArray[np.uint8]], task: Task) -> NDArray[np.uint8]:
        """The images at image_size, cut out of their padded selves where a border is asked for."""
        size, border = self.plan.image_size, self.plan.border
        pixels = np.stack([fit(image, self.plan.shorter_side, size) for image in images])
        if not border:
            return pixels
        padded = np.pad(pixels, ((0, 0), (border, border), (border, border), (0, 0)))
        top_B, left_B = views.crop_offsets(self.plan.data_seed, task.view, task.index_B, border)
        for b, (top, left) in enumerate(zip(top_B.tolist(), left_B.tolist(), strict=True)):
            pixels[b] = padded[b, top : top + size, left : left + size]
        return pixels

    def _rotated(self, pixels: NDArray[np.uint8], task: Task) -> NDArray[np.uint8]:
        size, at_S = self.plan.image_size, np.arange(self.plan.image_size)
        angle_B = views.rotation_angles(self.plan.data_seed, task.view, task.index_B, self.plan.degrees)
        y, x, inside = views.rotation_sources(views.rotation_matrices(angle_B, size, size), at_S, at_S)
        sample = np.arange(len(pixels))[:, None, None]
        return np.where(inside[..., None], pixels[sample, np.where(inside, y, 0), np.where(inside, x, 0)], np.uint8(0))
