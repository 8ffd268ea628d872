"""Self-supervised KD using SVD. Lee, Kim and Song 2018 (ECCV, arXiv 1807.06819), equations 1 to 7."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.singular import align, right_vectors, upright
from pipeline.distillers.common.stages import LIST_VARIANTS, paired_sizes, stage_pairs
from pipeline.distillers.common.terms import LabelWeights, label_terms

SPARE = 3  # student vectors besides the teacher's k, among which each teacher vector finds its like
BY_ROW = {"mdistiller"}  # variants that take the map as (C H) x W
AS_COMPUTED = {"repdistiller", "mdistiller", "simkd"}  # variants that leave the signs to the library


def pixels_by_channels(x_BCHW: Tensor) -> Tensor:
    """B x HW x C: the paper's matrix."""
    return x_BCHW.flatten(2).transpose(1, 2)


def lines_by_columns(x_BCHW: Tensor) -> Tensor:
    """B x CH x W: mdistiller's matrix."""
    return x_BCHW.flatten(1, 2)


def flow(lower_BMK: Tensor, upper_BNK: Tensor) -> Tensor:
    """exp(-(u - l)^2 / 8) of all pairs of entries of two layers' vectors, B N M k (eq. 5)."""
    return torch.exp(-(upper_BNK[:, :, None, :] - lower_BMK[:, None, :, :]).square() / 8)


@DISTILLERS.register("kdsvd")
class KDSVD(Distiller):
    """ce_weight * cross-entropy + feat_weight * sum over consecutive stages of the flows' squared difference (+ KD).

    The value depends on the signs of the teacher's vectors, which no SVD defines: turning one layer's vector took the
    terms from (.0034, .0110) to (.1046, .1813) on random maps. By default they are turned upright (entries of one
    sign for maps after ReLU); `repdistiller` and `mdistiller` take what the library gives, as their code does. Sums
    over entries, not means: the scale grows with the widths. No table has published it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """k: singular vectors of the teacher at each stage; feat_weight: of the sum."""

        k: Annotated[int, Field(ge=1)] = 1
        feat_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        **LIST_VARIANTS,
        "repdistiller": "signs as the library gives them; of the longer list the last stages are unused",
        "mdistiller": "as repdistiller, on the matrix (channels x lines) by columns",
        "paper": "as matched",
    }
    needs = Signal.LOGITS | Signal.FEATURES
    capturable = False  # CUDA's SVD asks on the host whether it has converged
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.pairs = stage_pairs(setting, self.variant, "kdsvd")
        by_row = self.variant in BY_ROW
        self.matrix = lines_by_columns if by_row else pixels_by_channels
        self.turned = self.variant not in AS_COMPUTED
        for student, teacher in paired_sizes(setting, self.pairs, "kdsvd"):
            ours, theirs = (student[2], teacher[2]) if by_row else (student[0], teacher[0])
            if ours != theirs:
                what = "columns" if by_row else "channels"
                raise InputError(f"kdsvd needs stages of equal {what}, and has {ours} (student) and {theirs} (teacher)")
        if len(self.pairs) < 2:
            raise InputError("kdsvd compares consecutive stages: both networks need two or more")

    def vectors(self, student_BCHW: Tensor, teacher_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned vectors of one stage, weighted with the teacher's singular values of length 1 over k; B N k."""
        k = self.config.k
        with torch.no_grad():
            teacher_BNK, value_BR = right_vectors(self.matrix(teacher_BCHW), k)
            teacher_BNK = upright(teacher_BNK) if self.turned else teacher_BNK
            weight_B1K = F.normalize(value_BR[:, None, :k], dim=2)
        student_BNS, _ = right_vectors(self.matrix(student_BCHW), k + SPARE)
        return align(student_BNS, teacher_BNK) * weight_B1K, teacher_BNK * weight_B1K

    def stage_terms(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One number for each step from a stage to the next, without weight."""
        found = [self.vectors(student.features[i], teacher.features[j]) for i, j in self.pairs]
        terms = []
        for (lower_s, lower_t), (upper_s, upper_t) in itertools.pairwise(found):
            gap_BNMK = flow(lower_s, upper_s) - flow(lower_t, upper_t)
            terms.append(gap_BNMK.square().sum() / len(gap_BNMK))
        return torch.stack(terms)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = label_terms(self, student, teacher, batch)
        return terms | {"kdsvd": self.config.feat_weight * self.stage_terms(student, teacher).sum()}
