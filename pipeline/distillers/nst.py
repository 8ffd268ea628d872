"""Neuron selectivity transfer. Huang and Wang 2017 (arXiv 1707.01219), equations 4 to 7, kernel of degree 2."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.maps import Maps, preact, to_smaller
from pipeline.distillers.common.relations import unit
from pipeline.distillers.common.stages import LIST_VARIANTS, stage_pairs
from pipeline.distillers.common.terms import LabelWeights, label_terms

LAST_ONLY = {"original"}


def stage_maps(output: ModelOutput) -> Maps:
    """Stem and stages, as after their ReLU."""
    return output.features


def mean_kernel(a_BCN: Tensor, b_BDN: Tensor) -> Tensor:
    """Mean over samples and pairs of channels of <a_c, b_d>^2, a scalar.

    sum_cd <a_c, b_d>^2 = <a^T a, b^T b>: whichever needs the smaller matrices, C x D or N x N. The published form
    holds C x D x N numbers for each sample.
    """
    batch, c, n = a_BCN.shape
    d = b_BDN.shape[1]
    if c * d <= 2 * n * n:
        total = (a_BCN @ b_BDN.transpose(1, 2)).square().sum()
    else:
        total = ((a_BCN.transpose(1, 2) @ a_BCN) * (b_BDN.transpose(1, 2) @ b_BDN)).sum()
    return total / (batch * c * d)


def nst_loss(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels' directions over space, a scalar (eq. 5).

    The larger map is pooled to the smaller one; the numbers of channels may differ.
    """
    student_BCHW, teacher_BCHW = to_smaller(student_BCHW, teacher_BCHW)
    s_BCN, t_BDN = unit(student_BCHW.flatten(2)), unit(teacher_BCHW.flatten(2))
    return mean_kernel(t_BDN, t_BDN) + mean_kernel(s_BCN, s_BCN) - 2 * mean_kernel(s_BCN, t_BDN)


@DISTILLERS.register("nst")
class NST(Distiller):
    """ce_weight * cross-entropy + feat_weight * sum over stages of nst_loss (+ KD).

    RepDistiller and mdistiller compute the paper's discrepancy with the whole weight of 50 on all stages, the source of
    the published tables and the default. The paper halves the weight (eq. 7). The authors' MXNet code for ImageNet does
    not: `original` has its 50 on one map of each network, the last one before its ReLU.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """feat_weight: of the sum over stages."""

        feat_weight: Annotated[float, Field(ge=0)] = 50.0

    variants: ClassVar[Mapping[str, str]] = {
        **LIST_VARIANTS,
        "paper": "half of the weight (equation 7); stage lists of equal length",
        "original": "the last maps of both alone, before their ReLU; whole weight",
    }
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        last_only = self.variant in LAST_ONLY
        pairs = stage_pairs(setting, "aligned" if last_only else self.variant, "nst")
        self.pairs, self.maps = (pairs[-1:], preact) if last_only else (pairs, stage_maps)
        self.weight = config.feat_weight * {"paper": 0.5}.get(self.variant, 1.0)

    def stage_terms(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One number for each pair of stages, without weight."""
        s_maps, t_maps = self.maps(student), self.maps(teacher)
        return torch.stack([nst_loss(s_maps[i], t_maps[j]) for i, j in self.pairs])

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = label_terms(self, student, teacher, batch)
        return terms | {"nst": self.weight * self.stage_terms(student, teacher).sum()}
