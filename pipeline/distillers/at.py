"""Attention transfer. Zagoruyko and Komodakis 2017 (arXiv 1612.03928), equations 1 and 2."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.maps import to_smaller
from pipeline.distillers.common.relations import length, unit
from pipeline.distillers.common.stages import LIST_VARIANTS, stage_pairs
from pipeline.distillers.common.terms import LabelWeights, label_terms


def attention(x_BCHW: Tensor, p: int) -> Tensor:
    """mean_C |x|^p as one vector of length 1 for each sample, B x HW (eq. 1; sum or mean is the same after that)."""
    return unit(x_BCHW.abs().pow(p).mean(1).flatten(1))


def squared_gap(student_BN: Tensor, teacher_BN: Tensor) -> Tensor:
    """Mean over batch and positions of the squared difference, a scalar."""
    return (student_BN - teacher_BN).square().mean()


def length_gap(student_BN: Tensor, teacher_BN: Tensor) -> Tensor:
    """Half of the mean over the batch of the difference's L2 norm (eq. 2 has beta / 2), a scalar."""
    return length(student_BN - teacher_BN).mean() / 2


def attention_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, p: int, gap: Callable[..., Tensor]) -> Tensor:
    """gap of the attention maps of one pair of stages, the larger map pooled to the smaller one first; a scalar."""
    student_BCHW, teacher_BCHW = to_smaller(student_BCHW, teacher_BCHW)
    return gap(attention(student_BCHW, p), attention(teacher_BCHW, p))


@DISTILLERS.register("at", "attention")
class AT(Distiller):
    """ce_weight * cross-entropy + feat_weight * sum over stages of attention_loss (+ KD).

    The authors' released code, RepDistiller and mdistiller take the mean of squared differences with weight 1000; the
    paper prints the norm itself and half the weight. All published tables come from the former: it is the default.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """p: exponent of the activations; feat_weight: of the sum over stages."""

        p: Annotated[int, Field(ge=1)] = 2
        feat_weight: Annotated[float, Field(ge=0)] = 1000.0

    variants: ClassVar[Mapping[str, str]] = {
        **LIST_VARIANTS,
        "paper": "equation 2: half the norm of the difference, not squared; stage lists of equal length",
    }
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.pairs = stage_pairs(setting, self.variant, "at")
        self.gap = {"paper": length_gap}.get(self.variant, squared_gap)

    def stage_terms(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One number for each pair of stages, without weight."""
        c = self.config
        return torch.stack(
            [attention_loss(student.features[i], teacher.features[j], c.p, self.gap) for i, j in self.pairs]
        )

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = label_terms(self, student, teacher, batch)
        return terms | {"at": self.config.feat_weight * self.stage_terms(student, teacher).sum()}
