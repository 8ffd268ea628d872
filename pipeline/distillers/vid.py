"""Variational information distillation. Ahn et al. 2019 (arXiv 1904.05835), equations 3 to 6."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.maps import to_smaller
from pipeline.distillers.common.stages import LIST_VARIANTS, paired_sizes, stage_pairs
from pipeline.distillers.common.terms import LabelWeights, label_terms

CONSTANT_VARIANCE = {"mdistiller"}  # variants


def vid_loss(mean_BCHW: Tensor, variance_C: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean of ((mean - teacher)^2 / variance + ln variance) / 2, a scalar: eq. 5 without its constant."""
    variance_C11 = variance_C[:, None, None]
    return ((mean_BCHW - teacher_BCHW).square() / variance_C11 + variance_C11.log()).mean() / 2


def start_of(variance: float, eps: float) -> float:
    """log_scale for which softplus(log_scale) + eps is `variance`: ln(e^x - 1), written so that no x overflows."""
    x = max(variance - eps, 1e-30)
    return x + math.log(-math.expm1(-x))


def regressor(student: int, teacher: int) -> nn.Sequential:
    """1x1 convolutions student -> teacher -> teacher -> teacher channels, ReLU between them, no bias."""
    return nn.Sequential(
        nn.Conv2d(student, teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(teacher, teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(teacher, teacher, 1, bias=False),
    )


@DISTILLERS.register("vid")
class VID(Distiller):
    """ce_weight * cross-entropy + feat_weight * sum over stages of vid_loss (+ KD).

    The larger map of a pair is pooled to the smaller one. The variance of each teacher channel is softplus(log_scale)
    + eps and trained, as in the paper and in RepDistiller; in mdistiller it stays at init_variance, because the
    optimiser never sees it (nor do checkpoints), and it starts from a teacher that was probed with noise: see
    teacher_probed. The mean over elements instead of eq. 5's sum is that of the authors' code. The default is that
    formula for lists that match; the cut lists are variants of their own.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """init_variance: of every channel at the start; eps: its lower bound; feat_weight: of the sum over stages."""

        init_variance: Annotated[float, Field(gt=0)] = 5.0
        eps: Annotated[float, Field(gt=0)] = 1e-5
        feat_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        **LIST_VARIANTS,
        "mdistiller": "as repdistiller, with variances that are never trained; teacher probed with noise",
        "paper": "as matched: equation 5 with means over elements",
    }
    teacher_probed: ClassVar[frozenset[str]] = frozenset({"mdistiller"})
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.pairs = stage_pairs(setting, self.variant, "vid")
        sizes = paired_sizes(setting, self.pairs, "vid")
        start = start_of(config.init_variance, config.eps)
        trained = self.variant not in CONSTANT_VARIANCE
        self.regressors = nn.ModuleList(regressor(student[0], teacher[0]) for student, teacher in sizes)
        self.log_scales = nn.ParameterList(
            nn.Parameter(torch.full((teacher[0],), start), requires_grad=trained) for _, teacher in sizes
        )

    def stage_terms(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One number for each pair of stages, without weight."""
        terms = []
        for (i, j), predict, log_scale_C in zip(self.pairs, self.regressors, self.log_scales, strict=True):
            student_BCHW, teacher_BCHW = to_smaller(student.features[i], teacher.features[j])
            variance_C = F.softplus(log_scale_C) + self.config.eps
            terms.append(vid_loss(predict(student_BCHW), variance_C, teacher_BCHW))
        return torch.stack(terms)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = label_terms(self, student, teacher, batch)
        return terms | {"vid": self.config.feat_weight * self.stage_terms(student, teacher).sum()}
