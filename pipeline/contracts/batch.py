"""What a loader hands on: one rank's part of a global batch and the further views in it. See interfaces.py."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor


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


@dataclass(kw_only=True)
class Batch:
    """One rank's part of one global batch, on the device.

    image_BCHW: normalised float32. label_B, index_B: int64; index_B is the position in the full training set (the key
    of caches and memory banks). view: number of the view, from 0. share: R * B_r / B, the factor that makes the mean
    over ranks of local means equal the mean over the global batch, however uneven the ranks' rows are. streams: the
    further views that the method declared, by name, shaped as image_BCHW; mixes: how the mixed ones were made.
    stream: which of them image_BCHW shows; "" the ordinary view, None no view that the law of views could show again.
    host_index_B: index_B in the host's memory, for look-ups there (None where nobody gave it).
    smoothing: of the labels in the cross-entropy, 0..1 (optim.label_smoothing); the step sets it. draft: how
    image_BCHW, which is empty then, will be made; `finished` does.
    """

    image_BCHW: Tensor
    label_B: Tensor
    index_B: Tensor
    view: int = 0
    share: float = 1.0
    streams: dict[str, Tensor] = field(default_factory=dict)
    mixes: dict[str, Mix] = field(default_factory=dict)
    stream: str | None = ""
    host_index_B: Tensor | None = None
    smoothing: float = 0.0
    draft: Draft | None = None

    def finished(self, fuse: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None) -> "Batch":
        """With its pixels. fuse: turns what makes them into one kernel."""
        if self.draft is None:
            return self
        make = self.draft.make if fuse is None else fuse(self.draft.make)
        return replace(self, image_BCHW=make(*self.draft.tensors), draft=None)

    def showing(self, name: str) -> "Batch":
        """The same samples in the further view `name`, without streams of their own."""
        return replace(self, image_BCHW=self.streams[name], stream=name, streams={}, mixes={})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors on the device, by name; of a draft what its pixels are made of in place of them."""
        found = {"label": self.label_B, "index": self.index_B}
        if self.draft is None:
            found["image"] = self.image_BCHW
        else:
            found |= {f"draft {i}": tensor for i, tensor in enumerate(self.draft.tensors)}
        found |= {f"stream {name}": image_BCHW for name, image_BCHW in self.streams.items()}
        for name, mix in self.mixes.items():
            found |= {f"mix {name} {part}": tensor for part, tensor in mix._asdict().items()}
        return found

    def of(self, tensors: Mapping[str, Tensor]) -> "Batch":
        """This batch out of other `tensors`, named as those of `tensors()`; without indices in the host's memory."""
        draft = self.draft
        if draft is not None:
            draft = draft._replace(tensors=tuple(tensors[f"draft {i}"] for i in range(len(draft.tensors))))
        return replace(
            self,
            draft=draft,
            image_BCHW=tensors["image"] if draft is None else self.image_BCHW,
            label_B=tensors["label"],
            index_B=tensors["index"],
            streams={name: tensors[f"stream {name}"] for name in self.streams},
            mixes={name: Mix(*(tensors[f"mix {name} {part}"] for part in Mix._fields)) for name in self.mixes},
            host_index_B=None,
        )

    def split(self, parts: int) -> list["Batch"]:
        """`parts` consecutive slices (fewer when the batch has fewer rows) whose shares add up to this batch's."""
        rows = self.label_B.shape[0]
        parts = min(parts, rows)
        if parts <= 1:
            return [self]
        edges = [rows * i // parts for i in range(parts + 1)]
        return [
            Batch(
                image_BCHW=self.image_BCHW[a:b],
                label_B=self.label_B[a:b],
                index_B=self.index_B[a:b],
                view=self.view,
                share=self.share * (b - a) / rows,
                streams={name: image_BCHW[a:b] for name, image_BCHW in self.streams.items()},
                stream=self.stream,
                smoothing=self.smoothing,
                host_index_B=None if self.host_index_B is None else self.host_index_B[a:b],
                mixes={n: mix._replace(partner_label_B=mix.partner_label_B[a:b]) for n, mix in self.mixes.items()},
            )
            for a, b in itertools.pairwise(edges)
        ]
