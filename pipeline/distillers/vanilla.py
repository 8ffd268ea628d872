"""Plain training: cross-entropy with the labels."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, View
from pipeline.distillers import DISTILLERS


@DISTILLERS.register("vanilla", "none", "ce", "scratch")
class Vanilla(Distiller):
    """Cross-entropy, mean over the batch. Needs no teacher; trains teachers and the student-alone baseline."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """No hyper-parameters; labels are smoothed by optim.label_smoothing."""

    needs = Signal.NONE

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        return {"ce": self.task_loss(student.logits_BK, batch)}
