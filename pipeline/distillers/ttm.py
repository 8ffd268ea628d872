"""Transformed teacher matching. Zheng and Yang 2024 (ICLR, arXiv 2402.11148): KD without the student's temperature."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, View
from pipeline.distillers import DISTILLERS


def transformed_divergence(student_BK: Tensor, teacher_BK: Tensor, gamma: float) -> Tensor:
    """KL(p^gamma / sum p^gamma || softmax(student)) of each sample, [B]; p = softmax(teacher).

    The power transform of p is softmax(gamma * teacher): a temperature 1 / gamma on the teacher's side only.
    """
    log_target_BK = F.log_softmax(gamma * teacher_BK, dim=1)
    log_p_BK = F.log_softmax(student_BK, dim=1)
    return F.kl_div(log_p_BK, log_target_BK, reduction="none", log_target=True).sum(dim=1)


@DISTILLERS.register("ttm")
class TTM(Distiller):
    """ce_weight * cross-entropy + kd_weight * mean transformed divergence; no factor T^2.

    One variant: the official code computes the published formula. The defaults are the one example of its README, for
    vgg13-vgg8. Temperature (1 / gamma) and weight of the other 12 pairs of its table, and of ImageNet, are listed in
    the paper's appendix A.4, which we could not read: for those pairs the defaults are not the published ones.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """gamma: exponent of the teacher's probabilities, 1 / temperature; ce_weight, kd_weight: of the two terms."""

        gamma: Annotated[float, Field(gt=0)] = 0.1
        ce_weight: Annotated[float, Field(ge=0)] = 1.0
        kd_weight: Annotated[float, Field(ge=0)] = 45.0

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": c.kd_weight * transformed_divergence(student.logits_BK, teacher.logits_BK, c.gamma).mean(),
        }
