"""What a loader must know to obey the law of views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.contracts import InputError, Stream
from pipeline.views import OP_KINDS, ORDERS

CROPS = ("pad", "window", "none")
DECODES = ("exact", "fast")
GRAIN = 32  # pixels: sizes between the first and the last are rounded to multiples of it
PAIR_KINDS = ("mixup", "cutmix")  # of an image and its partner, by Beta(alpha, alpha)
SIZE_KINDS = ("cutout",)
STEP_KINDS = (*PAIR_KINDS, *SIZE_KINDS)  # drawn once per global batch; the other kinds (OP_KINDS) once per image
Rgb = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """One loader's part of a run. In evaluation (train=False) nothing is shuffled and nothing is augmented.

    batch_size: images per step over all ranks; in evaluation, where ranks need not go in step, per rank.
    seed keys the order, data_seed the views. views: number of different views, None = a new one each epoch.
    order: one of views.ORDERS, of the training samples.
    crop: `pad` (zeros around, crop of image_size), `window` (RandomResizedCrop within scale and ratio), `none`.
    padding, image_size: pixels. rotation: degrees, 0 = off. mean, std: per channel, pixels in 0..1.
    resize: pixels of the shorter side of images that are not image_size x image_size, before the centre crop; None =
    image_size, but image_size / 0.875 where crop=window (the usual evaluation of such recipes).
    decode: `exact` (Pillow's pixels) or `fast` (declared approximations: quick DCT, images decoded at a fraction of
    their size where the window allows it). ramp: (first size, last epoch that has it, first epoch that has image_size),
    epochs from 0: sides of training images that grow in between; None = image_size throughout.
    index_N: positions of the set that the loader uses, None = all; a Batch names positions in the whole set.
    workers: processes (threads of the resident loader, while it decodes files or operates on images).
    read_timeout: seconds after which a file that is still being read ends the process, 0 = never.
    streams: further views of each training image, by name; of two equal ones each would be the other's copy.
    Raises InputError, one line.
    """

    batch_size: int
    image_size: int
    mean: Rgb
    std: Rgb
    seed: int = 0
    order: str = "random"
    data_seed: int = 0
    rank: int = 0
    ranks: int = 1
    train: bool = True
    crop: str = "none"
    padding: int = 0
    flip: bool = False
    rotation: float = 0.0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize: int | None = None
    decode: str = "exact"
    ramp: tuple[int, int, int] | None = None
    channels_last: bool = True
    workers: int = 0
    device: torch.device | str = "cpu"
    views: int | None = None
    index_N: NDArray[np.int64] | None = None
    read_timeout: float = 0.0
    streams: Mapping[str, Stream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for fine, text in (
            (self.batch_size >= 1, f"a batch of {self.batch_size} images is empty"),
            (self.image_size >= 1, f"an image of {self.image_size} pixels is empty"),
            (len(self.mean) == len(self.std) == 3, "mean and std are three numbers each"),
            (min(self.std) > 0, f"std={self.std} is not positive"),
            (min(self.seed, self.data_seed) >= 0, "a seed must not be negative"),
            (max(self.seed, self.data_seed) < 2**32, "a seed must be below 4294967296"),
            (0 <= self.rank < self.ranks, f"rank {self.rank} of {self.ranks} does not exist"),
            (self.crop in CROPS, f"crop={self.crop!r} is none of {', '.join(CROPS)}"),
            (self.order in ORDERS, f"order={self.order!r} is none of {', '.join(ORDERS)}"),
            (self.decode in DECODES, f"decode={self.decode!r} is none of {', '.join(DECODES)}"),
            (self.padding >= 0, f"padding={self.padding} is negative"),
            (0 <= self.rotation <= 180, f"rotation={self.rotation} is outside 0..180 degrees"),
            (0 < self.scale[0] <= self.scale[1] <= 1, f"scale={self.scale} is no range inside 0..1"),
            (0 < self.ratio[0] <= self.ratio[1], f"ratio={self.ratio} is no range of positive numbers"),
            (self.shorter_side >= self.image_size, f"resize={self.resize} is less than image_size={self.image_size}"),
            (self.workers >= 0, f"workers={self.workers} is negative"),
            (self.views is None or self.views >= 1, f"views={self.views} leaves nothing to show"),
        ):
            if not fine:
                raise InputError(text)
        if self.ramp is not None:
            self._check_ramp(*self.ramp)
        for name, stream in self.streams.items():
            self._check(name, stream)
        if len(set(self.streams.values())) < len(self.streams):
            raise InputError(f"two of the streams {', '.join(self.streams)} are the same")

    def _check(self, name: str, stream: Stream) -> None:
        known = (*STEP_KINDS, *OP_KINDS)
        for fine, text in (
            (stream.kind in known, f"kind={stream.kind!r} is none of {', '.join(known)}"),
            (stream.kind not in PAIR_KINDS or stream.alpha > 0, f"alpha={stream.alpha} is not positive"),
            (stream.kind not in SIZE_KINDS or stream.size >= 1, f"a square of {stream.size} pixels cuts nothing out"),
        ):
            if not fine:
                raise InputError(f"stream {name}: {text}")

    def _check_ramp(self, smallest: int, start: int, end: int) -> None:
        for fine, text in (
            (self.crop == "window", "images of a growing size are windows: use data.crop=window"),
            (1 <= smallest <= self.image_size, f"a first size of {smallest} exceeds image_size={self.image_size}"),
            (0 <= start <= end, f"sizes that grow from epoch {start} to {end} do not grow"),
        ):
            if not fine:
                raise InputError(text)

    def size_at(self, epoch: int) -> int:
        """Pixels of a side in `epoch` (from 0): linear along the ramp, in multiples of GRAIN, the ends as they are."""
        if self.ramp is None or not self.train:
            return self.image_size
        smallest, start, end = self.ramp
        if epoch <= start:
            return smallest
        if epoch >= end:
            return self.image_size
        size = smallest + (self.image_size - smallest) * (epoch - start) / (end - start)
        return min(max(round(size / GRAIN) * GRAIN, smallest), self.image_size)

    def drawn_by(self, kinds: Sequence[str]) -> dict[str, Stream]:
        """The streams of these kinds, by name; {} in evaluation."""
        return {name: stream for name, stream in self.streams.items() if self.train and stream.kind in kinds}

    @property
    def shorter_side(self) -> int:
        """Pixels to which the shorter side is resized before the centre crop."""
        if self.resize is not None:
            return self.resize
        return round(self.image_size / 0.875) if self.crop == "window" else self.image_size

    @property
    def border(self) -> int:
        """Pixels of zeros around the image, 0 where no padded crop is drawn."""
        return self.padding if self.train and self.crop == "pad" else 0

    @property
    def windows(self) -> bool:
        """Whether RandomResizedCrop windows are drawn."""
        return self.train and self.crop == "window"

    @property
    def mirrors(self) -> bool:
        """Whether flips are drawn."""
        return self.train and self.flip

    @property
    def degrees(self) -> float:
        """Largest rotation that is drawn, 0 where none is."""
        return self.rotation if self.train else 0.0
