"""Decoupled knowledge distillation. Zhao, Cui, Song, Qiu and Liang 2022 (arXiv 2203.08679), equation 7."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.lskd import standardise


class Decoupled(NamedTuple):
    """Logits seen as two questions.

    margin_B: log odds of the label against all other classes together; log_rest_BK: log-probabilities of the other
    classes among themselves (0 at the label); others_BK: true where log_rest_BK counts.
    """

    margin_B: Tensor
    log_rest_BK: Tensor
    others_BK: Tensor

    def rest(self) -> Tensor:
        """B x K: probabilities of the other classes among themselves, 0 at the label."""
        return self.log_rest_BK.exp() * self.others_BK


def decouple(logits_BK: Tensor, label_B: Tensor) -> Decoupled:
    """Exact removal of the label; the official code subtracts 1000 from its logit, which gives the same numbers.

    Comparisons in place of gather and scatter, which torch.compile cannot put into one kernel with the rest: their
    backward alone writes and reads the matrix four times.
    """
    at_label_BK = torch.arange(logits_BK.shape[1], device=logits_BK.device) == label_B[:, None]
    rest_BK = logits_BK.masked_fill(at_label_BK, -torch.inf)
    margin_B = torch.where(at_label_BK, logits_BK, 0.0).sum(dim=1) - rest_BK.logsumexp(dim=1)
    return Decoupled(margin_B, F.log_softmax(rest_BK, dim=1).masked_fill(at_label_BK, 0.0), ~at_label_BK)


def decoupled_rows(student_BK: Tensor, teacher_BK: Tensor, label_B: Tensor, T: float | Tensor) -> tuple[Tensor, Tensor]:
    """(target_B, rest_B): KL(teacher || student) between label and not label, and among the other classes, both at T.

    T: temperature, a number or B x 1. In log odds: the official code takes log(softmax), which is infinite for a very
    confident student.
    """
    s, t = decouple(student_BK / T, label_B), decouple(teacher_BK / T, label_B)
    target_B = torch.stack(
        [
            torch.sigmoid(sign * t.margin_B) * (F.logsigmoid(sign * t.margin_B) - F.logsigmoid(sign * s.margin_B))
            for sign in (1, -1)
        ]
    ).sum(0)
    return target_B, (t.rest() * (t.log_rest_BK - s.log_rest_BK)).sum(dim=1)


def dkd_loss(
    student_BK: Tensor, teacher_BK: Tensor, label_B: Tensor, alpha: float, beta: float, T: float | Tensor
) -> Tensor:
    """T^2 * mean_B (alpha * target + beta * rest), a scalar, or [1] where T is; see decoupled_rows."""
    target_B, rest_B = decoupled_rows(student_BK, teacher_BK, label_B, T)
    return (alpha * target_B.mean() + beta * rest_B.mean()) * T**2


def warm_up(progress: Tensor, epochs: int, like: Tensor) -> Tensor:
    """min(epoch / epochs, 1), epoch = floor(progress) + 1, in the precision of `like`; 0-d."""
    return ((progress.floor() + 1).to(like.dtype) / epochs).clamp(max=1)


@DISTILLERS.register("dkd")
class DKD(Distiller):
    """ce_weight * cross-entropy + warm-up * dkd_loss.

    mdistiller, the authors' code, computes the paper's formula and is the default. KDrefine ships a cut form: the rest
    alone with weight 1, alpha and beta unread.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature; alpha, beta: weights of target and rest; warmup: epochs in which both grow from 1 / warmup.

        standardise: compare z-scores of the logits (see lskd); the cross-entropy sees the logits.
        """

        T: Annotated[float, Field(gt=0)] = 4.0
        alpha: Annotated[float, Field(ge=0)] = 1.0
        beta: Annotated[float, Field(ge=0)] = 8.0
        warmup: Annotated[int, Field(ge=1)] = 20
        ce_weight: Annotated[float, Field(ge=0)] = 1.0
        standardise: bool = False

    variants: ClassVar[Mapping[str, str]] = {
        "paper": "alpha * target + beta * rest; mdistiller and LSKD compute the same",
        "mdistiller": "the same as paper",
        "kdrefine": "the rest alone, weight 1, as KDrefine ships it",
    }
    needs = Signal.LOGITS

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        own = (config.alpha, config.beta)
        self.weights = {"paper": own, "mdistiller": own, "kdrefine": (0.0, 1.0)}[self.variant]

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        student_BK, teacher_BK = student.logits_BK, teacher.logits_BK
        if c.standardise:
            student_BK, teacher_BK = standardise(student_BK), standardise(teacher_BK)
        loss = dkd_loss(student_BK, teacher_BK, batch.label_B, *self.weights, c.T)
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": warm_up(progress, c.warmup, loss) * loss,
        }
