"""KDrefine's logit loss: distillation of normalised logits, with a re-parameterised student (block=ambb).

No formula is published: this is the code of github.com/YujieZheng99/KDrefine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.kd import kd_loss
from pipeline.distillers.lskd import standardise


def twice_standardised(z_BK: Tensor) -> Tensor:
    """2 * (z - mean) / (std + 1e-7) of each row, std over K - 1."""
    return 2 * standardise(z_BK)


def four_times_normalised(z_BK: Tensor) -> Tensor:
    """4 * (z - mean) / sqrt(variance + 1e-7) of each row, variance over K; zeros for a row without spread."""
    variance_B1 = z_BK.var(dim=1, keepdim=True, correction=0)
    centred_BK = z_BK - z_BK.mean(dim=1, keepdim=True)
    return 4 * centred_BK / (variance_B1 + 1e-7).sqrt().masked_fill(variance_B1 == 0, torch.inf)


@DISTILLERS.register("kdrefine")
class KDrefine(Distiller):
    """ce_weight * cross-entropy + kd_weight * kd_loss, both of normalised logits.

    The cross-entropy sees them too: the student's logits are free up to shift and scale, which leaves its accuracy
    alone and makes its raw test loss meaningless. The default is the form of 2024 that the repository ships; its
    printed accuracies are older (October 2022) and may come from `kdrefine-2022`, the form found in December 2022.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature, for logits of deviation 2 (4 in kdrefine-2022); ce_weight, kd_weight: of the two terms."""

        T: Annotated[float, Field(gt=0)] = 4.0
        ce_weight: Annotated[float, Field(ge=0)] = 0.1
        kd_weight: Annotated[float, Field(ge=0)] = 0.9

    variants: ClassVar[Mapping[str, str]] = {
        "kdrefine": "twice the z-scores, as shipped since September 2024",
        "kdrefine-2022": "four times the layer norm, as in December 2022",
    }
    needs = Signal.LOGITS

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        forms: dict[str, Callable[[Tensor], Tensor]] = dict(
            zip(self.variants, (twice_standardised, four_times_normalised), strict=True)
        )
        self.normalise = forms[self.variant]

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        student_BK, teacher_BK = self.normalise(student.logits_BK), self.normalise(teacher.logits_BK)
        return {
            "ce": c.ce_weight * self.task_loss(student_BK, batch),
            "kd": c.kd_weight * kd_loss(student_BK, teacher_BK, c.T),
        }
