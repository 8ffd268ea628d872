"""Plain training: cross-entropy with the labels, optionally smoothed (Szegedy et al. 2016, eq. 3)."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, View
from pipeline.distillers import DISTILLERS


@DISTILLERS.register("vanilla", "none", "ce", "scratch")
class Vanilla(Distiller):
    """Cross-entropy, mean over the batch. Needs no teacher; trains teachers and the student-alone baseline."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """label_smoothing: share of the target spread evenly over all classes, 0..1."""

        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    needs = Signal.NONE

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(student.logits_BK, batch.label_B, label_smoothing=self.config.label_smoothing)}
