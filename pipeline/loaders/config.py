"""What a loader must know to obey the law of views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.contracts import InputError, Stream
from pipeline.views import OP_KINDS

GRAIN = 32  # pixels: sizes between the first and the last are rounded to multiples of it
PAIR_KINDS = ("mixup", "cutmix")  # of an image and its partner, by Beta(alpha, alpha)
SIZE_KINDS = ("cutout",)
STEP_KINDS = (*PAIR_KINDS, *SIZE_KINDS)  # drawn once per global batch; the other kinds (OP_KINDS) once per image


@dataclass(frozen=True, kw_only=True, eq=False)
class LoaderConfig:
    """One loader's part of a run: the keys of data.*, and what the run adds. In evaluation (train=False) nothing is
    shuffled and nothing is augmented.

    seed keys the order, data.seed the views. views: number of different views, None = a new one each epoch.
    index_N: positions of the set that the loader uses, None = all; a Batch names positions in the whole set.
    streams: further views of each training image, by name; of two equal ones each would be the other's copy.
    Raises InputError, one line.
    """

    data: DataConfig
    seed: int = 0
    rank: int = 0
    ranks: int = 1
    train: bool = True
    channels_last: bool = True
    device: torch.device | str = "cpu"
    views: int | None = None
    index_N: NDArray[np.int64] | None = None
    streams: Mapping[str, Stream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What keys of data.* may be is checked where they are declared.
        for fine, text in (
            (0 <= self.rank < self.ranks, f"rank {self.rank} of {self.ranks} does not exist"),
            (
                self.shorter_side >= self.image_size,
                f"resize={self.data.resize} is less than image_size={self.image_size}",
            ),
            (self.views is None or self.views >= 1, f"views={self.views} leaves nothing to show"),
        ):
            if not fine:
                raise InputError(text)
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

    def with_data(self, **keys: Any) -> "LoaderConfig":
        """The same with other values of data.*."""
        return replace(self, data=self.data.model_copy(update=keys))

    @property
    def batch_size(self) -> int:
        """Images per step over all ranks; in evaluation, where ranks need not go in step, per rank."""
        return self.data.batch_size if self.train else self.data.eval_batch_size

    @property
    def image_size(self) -> int:
        """Pixels of a side, in training of the last epoch."""
        return self.data.image_size if self.train else self.data.test_size

    def size_at(self, epoch: int) -> int:
        """Pixels of a side in `epoch` (from 0): linear along the ramp, in multiples of GRAIN, the ends as they are."""
        if self.data.ramp is None or not self.train:
            return self.image_size
        smallest, start, end = self.data.ramp
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
        """Pixels to which the shorter side is resized before the centre crop: data.resize, else image_size, but
        image_size / 0.875 where crop=window (the usual evaluation of such recipes)."""
        if self.data.resize is not None:
            return self.data.resize
        return round(self.image_size / 0.875) if self.data.crop == "window" else self.image_size

    @property
    def border(self) -> int:
        """Pixels of zeros around the image, 0 where no padded crop is drawn."""
        return self.data.padding if self.train and self.data.crop == "pad" else 0

    @property
    def windows(self) -> bool:
        """Whether RandomResizedCrop windows are drawn."""
        return self.train and self.data.crop == "window"

    @property
    def mirrors(self) -> bool:
        """Whether flips are drawn."""
        return self.train and self.data.flip

    @property
    def degrees(self) -> float:
        """Largest rotation that is drawn, 0 where none is."""
        return self.data.rotation if self.train else 0.0
