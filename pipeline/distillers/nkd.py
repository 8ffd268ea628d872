"""NKD: normalised distillation. Yang, Zeng, Li, Zhang, Yuan and Li 2023 (arXiv 2303.13005), L_NKD."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.dkd import decouple


def nkd_loss(student_BK: Tensor, teacher_BK: Tensor, label_B: Tensor, gamma: float, T: float) -> Tensor:
    """mean_B of p_label(teacher) * CE at temperature 1 + gamma * T^2 * cross-entropy among the other classes at T."""
    target_B = F.softmax(teacher_BK, dim=1).gather(1, label_B[:, None]).squeeze(1)
    own_B = target_B * F.cross_entropy(student_BK, label_B, reduction="none")
    s, t = decouple(student_BK / T, label_B), decouple(teacher_BK / T, label_B)
    rest_B = -(t.rest() * s.log_rest_BK).sum(dim=1)
    return own_B.mean() + gamma * T**2 * rest_B.mean()


@DISTILLERS.register("nkd")
class NKD(Distiller):
    """ce_weight * cross-entropy + nkd_loss. The authors' code (cls_KD) computes the paper's formula."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature of the other classes; gamma: weight of their term; ce_weight: of the cross-entropy."""

        T: Annotated[float, Field(gt=0)] = 1.0
        gamma: Annotated[float, Field(ge=0)] = 1.5
        ce_weight: Annotated[float, Field(ge=0)] = 1.0

    needs = Signal.LOGITS

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "nkd": nkd_loss(student.logits_BK, teacher.logits_BK, batch.label_B, c.gamma, c.T),
        }
