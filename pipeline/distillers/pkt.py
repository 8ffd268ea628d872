"""Probabilistic knowledge transfer. Passalis and Tefas 2018 (arXiv 1803.10837), equations 3 to 7, cosine kernel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.relations import cosines, off_diagonal
from pipeline.distillers.common.terms import LabelWeights, label_terms

Neighbours = Callable[[Tensor], Tensor]


def with_self(x_BB: Tensor) -> Tensor:
    """The similarities as they are: a sample is its own neighbour."""
    return x_BB


def probabilities(x_BD: Tensor, eps: float, neighbours: Neighbours = with_self) -> Tensor:
    """(cos + 1) / 2 with rows that sum to 1, B x B."""
    similarity_BB = neighbours((cosines(x_BD, eps) + 1) / 2)
    total_B1 = similarity_BB.sum(1, keepdim=True)
    return similarity_BB / torch.where(total_B1 > 0, total_B1, 1.0)


def pkt_loss(student_BD: Tensor, teacher_BD: Tensor, eps: float, neighbours: Neighbours = with_self) -> Tensor:
    """Mean over all pairs of p_t ln((p_t + eps) / (p_s + eps)), a scalar. The widths may differ."""
    p_student_BB = probabilities(student_BD, eps, neighbours)
    p_teacher_BB = probabilities(teacher_BD, eps, neighbours)
    return (p_teacher_BB * ((p_teacher_BB + eps).log() - (p_student_BB + eps).log())).mean()


@DISTILLERS.register("pkt")
class PKT(Distiller):
    """ce_weight * cross-entropy + feat_weight * pkt_loss of the pooled vectors (+ KD).

    Authors' code, RepDistiller and mdistiller count each sample as its own neighbour and take the mean over all pairs,
    hence the weight of 30000; that is the default. The paper sums over other samples only.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """eps: added to norms and probabilities; feat_weight: of pkt_loss."""

        eps: Annotated[float, Field(gt=0)] = 1e-7
        feat_weight: Annotated[float, Field(ge=0)] = 30000.0

    variants: ClassVar[Mapping[str, str]] = {
        "repdistiller": "a sample is its own neighbour",
        "mdistiller": "as repdistiller",
        "paper": "other samples only; the mean over pairs instead of the sum, the factor is the weight's",
    }
    relates_samples = True
    needs = Signal.LOGITS | Signal.POOLED

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.neighbours = {"paper": off_diagonal}.get(self.variant, with_self)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        student_BD, teacher_BD = self.gather(student.pooled_BD), self.gather(teacher.pooled_BD)
        terms = label_terms(self, student, teacher, batch)
        return terms | {"pkt": c.feat_weight * pkt_loss(student_BD, teacher_BD, c.eps, self.neighbours)}
