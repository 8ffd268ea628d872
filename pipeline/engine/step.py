"""The one module with gradients: student and method together. Compiled first, then wrapped in DDP."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, Mix, ModelOutput, View

TASK = "ce"  # the term that update rules which tell kinds of losses apart take for the task's


class StepOutput(NamedTuple):
    """loss: scalar sum of the terms; terms: named scalars, without gradient; logits_BK: of the student, likewise; task:
    the cross-entropy's part of the loss, with gradient (0 where there is none)."""

    loss: Tensor
    terms: dict[str, Tensor]
    logits_BK: Tensor
    task: Tensor | None = None

    @classmethod
    def merged(cls, outputs: list["StepOutput"]) -> "StepOutput":
        """The slices of one batch as one output; non-finite values of any slice stay visible in the means."""
        if len(outputs) == 1:
            return outputs[0]
        terms = {name: torch.stack([o.terms[name].reshape(()) for o in outputs]).mean() for name in outputs[0].terms}
        loss = torch.stack([o.loss.detach() for o in outputs]).mean()
        return cls(loss, terms, torch.cat([o.logits_BK for o in outputs]))


class Seen(NamedTuple):
    """A batch as tensors only, with what the teacher said of it: what may cross into a compiled or wrapped module.

    The view number and the rank's share stay outside: they are host values that would recompile the step.
    """

    image_BCHW: Tensor
    label_B: Tensor
    index_B: Tensor
    teacher: ModelOutput | None
    mixes: dict[str, Mix]

    @classmethod
    def of(cls, batch: Batch, teacher: ModelOutput | None) -> "Seen":
        """The batch without its further streams: methods read those in `extra_batches`, outside the step."""
        return cls(batch.image_BCHW, batch.label_B, batch.index_B, teacher, batch.mixes)

    def batch(self, smoothing: float) -> Batch:
        """As methods take it. smoothing: of the labels."""
        return Batch(
            image_BCHW=self.image_BCHW,
            label_B=self.label_B,
            index_B=self.index_B,
            mixes=self.mixes,
            smoothing=smoothing,
        )


class DistillationStep(nn.Module):
    """Student forward under autocast, losses in float32 outside it. smoothing: of the labels."""

    def __init__(
        self,
        student: nn.Module,
        distiller: Distiller,
        autocast: Callable[[], AbstractContextManager[object]],
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller
        self.autocast = autocast
        self.smoothing = smoothing

    def _student(self, image_BCHW: Tensor) -> ModelOutput:
        with self.autocast():
            output: ModelOutput = self.student(image_BCHW, features=self.distiller.student_features)
        return output.float()

    def forward(self, progress: Tensor, seen: Seen, *further: Seen) -> StepOutput:
        """seen: the batch; further: those that the method asked for (Distiller.extra_batches)."""
        student = self._student(seen.image_BCHW)
        views = [View(self._student(other.image_BCHW), other.teacher, other.batch(self.smoothing)) for other in further]
        terms = self.distiller(student, seen.teacher, seen.batch(self.smoothing), progress, *views)
        loss = torch.stack([term.reshape(()) for term in terms.values()]).sum()
        task = terms[TASK].reshape(()) if TASK in terms else loss.new_zeros(())
        return StepOutput(loss, {k: v.detach() for k, v in terms.items()}, student.logits_BK.detach(), task)
