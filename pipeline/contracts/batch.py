"""What a loader hands on: one rank's part of a global batch and the further views in it. See interfaces.py."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A further view of each image that a method asks of the loader, besides its ordinary one.

    kind: mixup, cutmix, cutout, autoaugment, randaugment or strong (MLKD's). alpha: of Beta(alpha, alpha) (mixup,
    cutmix). size: side of the square in pixels (cutout). The law of views draws all of it.
    """

    kind: str
    alpha: float = 1.0
    size: int = 0


class Mix(NamedTuple):
    """How a mixed stream was made: image = weight * own + (1 - weight) * partner's, or the partner's inside a box.

    weight: 0-d float32, the share of the own image (for cutmix the exact share of pixels); partner_label_B: int64;
    box: int64 [4] (top, left, height, width in pixels), of cutmix and cutout, else empty.
    """

    weight: Tensor
    partner_label_B: Tensor
    box: Tensor


class Draft(NamedTuple):
    """Pixels that are not made yet: image_BCHW = make(*tensors), which a step may do inside its own graph."""

    make: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]


class BatchInfo(NamedTuple):
    """What the host knows of a batch, beside its tensors.

    view: number of the view, from 0. share: R * B_r / B, the factor that makes the mean over ranks of local means equal
    the mean over the global batch, however uneven the ranks' rows are. stream: which further view image_BCHW shows; ""
    the ordinary one, None no view that the law of views could show again. host_index_B: index_B in the host's memory,
    for look-ups there (None where nobody gave it). make: see Batch.draft.
    """

    view: int = 0
    share: float = 1.0
    stream: str | None = ""
    host_index_B: Tensor | None = None
    make: Callable[..., Tensor] | None = None

    @property
    def constants(self) -> "BatchInfo":
        """What a graph of a step may hold: neither the view's number nor indices, which are looked up outside."""
        return BatchInfo(share=self.share, stream=self.stream, make=self.make)


NOTHING_KNOWN = BatchInfo()  # of a whole batch of one rank, in its ordinary view


@dataclass(kw_only=True)
class Batch:
    """One rank's part of one global batch: tensors on the device, and in `info` what the host knows of them.

    image_BCHW: normalised float32. label_B, index_B: int64; index_B is the position in the full training set (the key
    of caches and memory banks). streams: the further views that the method declared, by name, shaped as image_BCHW;
    mixes: how the mixed ones were made. draft: what image_BCHW, which is empty then, will be made of; `finished` does.

    A pytree: its leaves are the tensors, its constants `info.constants`.
    """

    image_BCHW: Tensor
    label_B: Tensor
    index_B: Tensor
    streams: dict[str, Tensor] = field(default_factory=dict)
    mixes: dict[str, Mix] = field(default_factory=dict)
    draft: tuple[Tensor, ...] = ()
    info: BatchInfo = NOTHING_KNOWN

    def finished(self, fuse: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None) -> "Batch":
        """With its pixels. fuse: turns what makes them into one kernel."""
        make = self.info.make
        if make is None:
            return self
        image_BCHW = (make if fuse is None else fuse(make))(*self.draft)
        return replace(self, image_BCHW=image_BCHW, draft=(), info=self.info._replace(make=None))

    def showing(self, name: str) -> "Batch":
        """The same samples in the further view `name`, without streams of their own."""
        info = self.info._replace(stream=name)
        return replace(self, image_BCHW=self.streams[name], streams={}, mixes={}, info=info)

    def split(self, parts: int) -> list["Batch"]:
        """`parts` consecutive slices (fewer when the batch has fewer rows) whose shares add up to this batch's."""
        rows = self.label_B.shape[0]
        parts = min(parts, rows)
        if parts <= 1:
            return [self]
        edges = [rows * i // parts for i in range(parts + 1)]
        return [self._rows(a, b) for a, b in itertools.pairwise(edges)]

    def _rows(self, a: int, b: int) -> "Batch":
        info = self.info
        index_B = None if info.host_index_B is None else info.host_index_B[a:b]
        return Batch(
            image_BCHW=self.image_BCHW[a:b],
            label_B=self.label_B[a:b],
            index_B=self.index_B[a:b],
            streams={name: image_BCHW[a:b] for name, image_BCHW in self.streams.items()},
            mixes={n: mix._replace(partner_label_B=mix.partner_label_B[a:b]) for n, mix in self.mixes.items()},
            info=info._replace(share=info.share * (b - a) / len(self.label_B), host_index_B=index_B),
        )


def _flatten(batch: Batch) -> tuple[list[Any], BatchInfo]:
    image = () if batch.info.make else (batch.image_BCHW,)
    return [image, batch.label_B, batch.index_B, batch.streams, batch.mixes, batch.draft], batch.info.constants


def _unflatten(parts: Iterable[Any], info: BatchInfo) -> Batch:
    image, label_B, index_B, streams, mixes, draft = parts
    shown = {"image_BCHW": image[0] if image else torch.empty(0), "label_B": label_B, "index_B": index_B}
    return Batch(**shown, streams=streams, mixes=mixes, draft=draft, info=info)


pytree.register_pytree_node(Batch, _flatten, _unflatten)
