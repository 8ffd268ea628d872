"""USKD: self-distillation with customised soft labels. Yang et al. 2023 (arXiv 2303.13005), L_USKD."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.dkd import decouple


def share_of_rest(value_BK: Tensor, label_B: Tensor) -> Tensor:
    """value / (1 - value of the label + 1e-6), B x K."""
    return value_BK / (1 - value_BK.gather(1, label_B[:, None]) + 1e-6)


def paper_scores(weak_BK: Tensor, student_BK: Tensor, label_B: Tensor) -> Tensor:
    """B x K by which the other classes are ranked: probabilities of both heads; the label comes last."""
    heads = [share_of_rest(F.softmax(logits_BK, dim=1), label_B) for logits_BK in (weak_BK, student_BK)]
    return (heads[0] + heads[1]).scatter(1, label_B[:, None], -torch.inf)


def shipped_scores(weak_BK: Tensor, student_BK: Tensor, label_B: Tensor) -> Tensor:
    """As paper_scores, but with the student's log-probabilities, and the label takes a rank of its own."""
    weak = share_of_rest(F.softmax(weak_BK, dim=1), label_B)
    return weak + share_of_rest(F.log_softmax(student_BK, dim=1), label_B)


def zipf_targets(score_BK: Tensor, others_BK: Tensor) -> Tensor:
    """1 / rank by falling score, ranks from 1, 0 where not `others`, rows sum to 1. Of equals the lower class wins."""
    order_BK = score_BK.argsort(dim=1, descending=True, stable=True)
    rank_BK = order_BK.argsort(dim=1, stable=True)
    target_BK = others_BK / (1 + rank_BK).to(score_BK.dtype)
    return target_BK / target_BK.sum(dim=1, keepdim=True)


def weak_loss(weak_BK: Tensor, label_B: Tensor) -> Tensor:
    """Cross-entropy of the weak head with the label at .9 and .1 spread over all classes, a scalar."""
    return F.cross_entropy(weak_BK, label_B, label_smoothing=0.1)


def own_loss(student_BK: Tensor, label_B: Tensor, mean_square: Tensor) -> Tensor:
    """Cross-entropy weighted with p^2 + 1 - mean(p^2), p the label's own probability, a constant; a scalar.

    mean_square: that mean over the global batch, 0-d.
    """
    loss_B = F.cross_entropy(student_BK, label_B, reduction="none")
    return ((label_square(student_BK, label_B) + 1 - mean_square) * loss_B).mean()


def label_square(student_BK: Tensor, label_B: Tensor) -> Tensor:
    """B: square of the label's probability, without gradient."""
    return F.softmax(student_BK.detach(), dim=1).gather(1, label_B[:, None]).squeeze(1).square()


@DISTILLERS.register("uskd")
class USKD(Distiller):
    """ce_weight * cross-entropy + alpha * own_loss + beta * rest + mu * weak_loss; needs no teacher.

    rest: cross-entropy of the other classes with Zipf's law, ranked by the student and a weak head on the pooled maps
    of its last but one stage. The authors' code is the default, as the tables come from it: by a reused name it ranks
    with log-probabilities of the student, where the paper has probabilities.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """alpha, beta, mu: weights of the label's, the other classes' and the weak head's terms."""

        alpha: Annotated[float, Field(ge=0)] = 1.0
        beta: Annotated[float, Field(ge=0)] = 0.1
        mu: Annotated[float, Field(gt=0)] = 0.005
        ce_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        "cls_kd": "ranks by weak probabilities and final log-probabilities, the label among them, as the authors' code",
        "paper": "ranks of the other classes by both heads' probabilities",
    }
    relates_samples = True
    needs = Signal.NONE
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        if setting is None or len(setting.student.features) < 2:
            raise InputError("uskd needs a student with two stage maps or more: its weak head reads the last but one")
        self.fc = nn.Linear(setting.student.features[-2][0], setting.student.classes)
        self.scores = {"cls_kd": shipped_scores, "paper": paper_scores}[self.variant]

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        c, label_B, logits_BK = self.config, batch.label_B, student.logits_BK
        weak_BK = self.fc(student.features[-2].mean(dim=(2, 3)))
        split = decouple(logits_BK, label_B)
        target_BK = zipf_targets(self.scores(weak_BK.detach(), logits_BK.detach(), label_B), split.others_BK)
        mean_square = self.gather(label_square(logits_BK, label_B)).mean()
        return {
            "ce": c.ce_weight * self.task_loss(logits_BK, batch),
            "own": c.alpha * own_loss(logits_BK, label_B, mean_square),
            "rest": -c.beta * (target_BK * split.log_rest_BK).sum(dim=1).mean(),
            "weak": c.mu * weak_loss(weak_BK, label_B),
        }
