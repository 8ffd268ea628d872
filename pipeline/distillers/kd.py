"""Knowledge distillation. Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, View
from pipeline.distillers import DISTILLERS


def kd_loss(student_BK: Tensor, teacher_BK: Tensor, T: float) -> Tensor:
    """T^2 * mean_B KL(softmax(teacher / T) || softmax(student / T)), a scalar. T: temperature.

    T^2 keeps the gradient's size independent of T (section 2 of the paper). Both sides are log-softmaxed, so confident
    logits give no log of zero. Summed row by row first: F.kl_div's sum over everything at once would be a kernel of its
    own under torch.compile, that reads both matrices again (2.7 instead of 2.0 times the least traffic).
    """
    log_p_student_BK = F.log_softmax(student_BK / T, dim=1)
    log_p_teacher_BK = F.log_softmax(teacher_BK / T, dim=1)
    return (log_p_teacher_BK.exp() * (log_p_teacher_BK - log_p_student_BK)).sum(dim=1).mean() * T**2


@DISTILLERS.register("kd")
class KD(Distiller):
    """ce_weight * cross-entropy + kd_weight * kd_loss.

    RepDistiller, mdistiller and SimKD compute the same formula and differ in the weights only (.1/.9 and 1/1), which
    are their recipes' business (recipe=), so there is one variant.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature; ce_weight, kd_weight: of the two terms."""

        T: Annotated[float, Field(gt=0)] = 4.0
        ce_weight: Annotated[float, Field(ge=0)] = 0.1
        kd_weight: Annotated[float, Field(ge=0)] = 0.9

    needs = Signal.LOGITS

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": c.kd_weight * kd_loss(student.logits_BK, teacher.logits_BK, c.T),
        }
