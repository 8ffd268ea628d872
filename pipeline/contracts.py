"""The types that cross borders between the parts. Imports torch only.

Shapes in names: B batch, C channels, H height, W width, K classes, D pooled width, N samples.
"""

import enum
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn


class InputError(Exception):
    """Something the user gave (data, file, argument) cannot be used: one line on stderr, exit code 2."""


class Signal(enum.Flag):
    """What a method asks of its teacher, and what a teacher source provides."""

    NONE = 0
    LOGITS = enum.auto()
    POOLED = enum.auto()
    FEATURES = enum.auto()
    WEIGHTS = enum.auto()


@dataclass(kw_only=True)
class Batch:
    """One rank's part of one global batch, on the device.

    image_BCHW: normalised float32. label_B, index_B: int64; index_B is the position in the full training set (the key
    of caches and memory banks). view: number of the view, from 0. share: R * B_r / B, the factor that makes the mean
    over ranks of local means equal the mean over the global batch, however uneven the ranks' rows are.
    """

    image_BCHW: Tensor
    label_B: Tensor
    index_B: Tensor
    view: int = 0
    share: float = 1.0

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
            )
            for a, b in itertools.pairwise(edges)
        ]


class ModelOutput(NamedTuple):
    """What a network returns.

    logits_BK; pooled_BD: the input of the classifier; features: stem output and one map per stage (B C H W), () unless
    asked for; preact_features: the same maps before their last activation, () where the network has none.
    """

    logits_BK: Tensor
    pooled_BD: Tensor
    features: tuple[Tensor, ...] = ()
    preact_features: tuple[Tensor, ...] = ()

    def float(self) -> "ModelOutput":
        """The same in float32 (a no-op for what is float32 or float64): losses are not computed in half precision."""

        def up(x: Tensor) -> Tensor:
            return x.float() if x.itemsize < 4 else x

        return ModelOutput(
            up(self.logits_BK),
            up(self.pooled_BD),
            tuple(up(f) for f in self.features),
            tuple(up(f) for f in self.preact_features),
        )


class Loader(Protocol):
    """Pixels on the device, in the order and the windows that the law of views gives."""

    num_samples: int
    replayable: bool

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Start at `first_step` of `epoch` (both from 0) at the next iteration."""

    def __len__(self) -> int:
        """Global batches per epoch, the short last one included."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, int]:
        """{'epoch', 'step'}: the batch that comes next."""

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


class TeacherSource(Protocol):
    """Where the teacher's outputs come from: a live network, or records written ahead of time."""

    provides: Signal

    def __call__(self, batch: Batch) -> ModelOutput | None: ...


class Distiller(nn.Module):
    """A method: turns student and teacher outputs into named loss terms, which the engine sums.

    It owns its regressors, embeddings and memory banks, never a network; it never calls the teacher, never moves a
    tensor to a device, and knows nothing of DDP, AMP, caches or data sets. `Config` (a frozen keyword-only dataclass)
    holds its hyper-parameters; `variants` names its origins, the default first.
    """

    Config: ClassVar[type]
    variants: ClassVar[Mapping[str, str]] = {"paper": "the published formula; every known implementation agrees"}
    needs: Signal = Signal.LOGITS
    student_features: bool = False

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor
    ) -> dict[str, Tensor]:
        """Named scalar terms. `progress`: completed epochs with fraction, a 0-d tensor."""
        raise NotImplementedError

    def predict(self, student: ModelOutput) -> Tensor:
        """logits_BK that inference uses; a method that predicts otherwise overrides this."""
        return student.logits_BK

    def added_parameters(self) -> int:
        """Number of trainable numbers that the method adds to the student."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def as_plain(value: Any) -> Any:
    """`value` with tuples as lists, recursively: what YAML and JSON can hold."""
    if isinstance(value, Mapping):
        return {k: as_plain(v) for k, v in value.items()}
    return [as_plain(v) for v in value] if isinstance(value, list | tuple) else value
