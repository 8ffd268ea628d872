"""Similarity-preserving KD. Tung and Mori 2019 (arXiv 1907.09682), equations 1 to 4."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.relations import unit
from pipeline.distillers.common.terms import LabelWeights, label_terms


def similarities(x_BN: Tensor) -> Tensor:
    """x x^T with rows of length 1, B x B (eq. 1 and 2). A sample of zeros has a row of zeros."""
    return unit(x_BN @ x_BN.T)


def sp_loss(student_BN: Tensor, teacher_BN: Tensor) -> Tensor:
    """||G_t - G_s||_F^2 / B^2 of the normalised similarities of flattened maps, a scalar (eq. 4)."""
    return (similarities(teacher_BN) - similarities(student_BN)).square().mean()


@DISTILLERS.register("sp", "similarity")
class SP(Distiller):
    """ce_weight * cross-entropy + feat_weight * sp_loss of the last stage maps (+ KD).

    Paper, RepDistiller, mdistiller and SimKD agree, and the maps may differ in every size but the batch. On several
    ranks the whole maps are gathered: each row of the Gram matrix needs all of them.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """feat_weight: of sp_loss."""

        feat_weight: Annotated[float, Field(ge=0)] = 3000.0

    relates_samples = True
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        student_BN = self.gather(student.features[-1].flatten(1))
        teacher_BN = self.gather(teacher.features[-1].flatten(1))
        terms = label_terms(self, student, teacher, batch)
        return terms | {"sp": self.config.feat_weight * sp_loss(student_BN, teacher_BN)}
