"""The one module with gradients: student and method together. Compiled first, then wrapped in DDP."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput


class StepOutput(NamedTuple):
    """loss: scalar sum of the terms; terms: named scalars, without gradient; logits_BK: of the student, likewise."""

    loss: Tensor
    terms: dict[str, Tensor]
    logits_BK: Tensor

    @classmethod
    def merged(cls, outputs: list["StepOutput"]) -> "StepOutput":
        """The slices of one batch as one output; non-finite values of any slice stay visible in the means."""
        if len(outputs) == 1:
            return outputs[0]
        terms = {name: torch.stack([o.terms[name].reshape(()) for o in outputs]).mean() for name in outputs[0].terms}
        loss = torch.stack([o.loss.detach() for o in outputs]).mean()
        return cls(loss, terms, torch.cat([o.logits_BK for o in outputs]))


class DistillationStep(nn.Module):
    """Student forward under autocast, losses in float32 outside it.

    `index_B` reaches the method; the view number and the rank's share do not: they are host values that would
    recompile the step.
    """

    def __init__(
        self, student: nn.Module, distiller: Distiller, autocast: Callable[[], AbstractContextManager[object]]
    ) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller
        self.autocast = autocast

    def forward(
        self, image_BCHW: Tensor, label_B: Tensor, index_B: Tensor, teacher: ModelOutput | None, progress: Tensor
    ) -> StepOutput:
        with self.autocast():
            student: ModelOutput = self.student(image_BCHW, features=self.distiller.student_features)
        student = student.float()
        batch = Batch(image_BCHW=image_BCHW, label_B=label_B, index_B=index_B)
        terms = self.distiller(student, teacher, batch, progress)
        loss = torch.stack([term.reshape(()) for term in terms.values()]).sum()
        return StepOutput(loss, {k: v.detach() for k, v in terms.items()}, student.logits_BK.detach())
