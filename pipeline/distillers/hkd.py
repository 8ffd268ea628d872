"""Heterogeneous KD by information flow. Passalis, Tzelepi and Tefas 2020 (arXiv 2005.00727), equations 5 to 8."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.relations import cosines, squared_distances
from pipeline.distillers.common.stages import stage_pairs
from pipeline.distillers.common.terms import LabelWeights, label_terms

EPS = 1e-6  # of the authors' code: under the root of distances and beside the norms
FLOOR = 1e-12  # keeps the logarithm of a probability finite


def probabilities(x_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that sum to 1, B x B: of the cosine kernel (cos + 1) / 2 and of the T kernel 1 / (1 + distance)."""
    kernels = (cosines(x_BN, EPS) + 1) / 2, 1 / (1 + (squared_distances(x_BN) + EPS).sqrt())
    cosine_BB, t_BB = (k_BB / k_BB.sum(1, keepdim=True) for k_BB in kernels)
    return cosine_BB, t_BB


def jeffreys(p_BB: Tensor, q_BB: Tensor) -> Tensor:
    """Mean over all pairs of (p - q)(ln p - ln q), a scalar: KL both ways."""
    return ((p_BB - q_BB) * (p_BB.clamp_min(FLOOR).log() - q_BB.clamp_min(FLOOR).log())).mean()


def flow_loss(student_BN: Tensor, teacher_BN: Tensor) -> Tensor:
    """Sum of both kernels' Jeffreys divergences, a scalar. The widths may differ."""
    both = zip(probabilities(teacher_BN), probabilities(student_BN), strict=True)
    return torch.stack([jeffreys(t_BB, s_BB) for t_BB, s_BB in both]).sum()


@DISTILLERS.register("hkd")
class HKD(Distiller):
    """ce_weight * cross-entropy + feat_weight * sum over layers of weight * flow_loss (+ KD).

    SemCKD's form, the default because the published figures are its own, compares the stages, flattened. It weighs the
    first one with init_weight for good and the others with 1, because it computes its decayed weight and never uses it.
    The authors' form has the pooled vector last, with weight 1; all earlier layers weigh init_weight * decay^epoch
    (epochs from 0), so that the flow is settled during the critical period and the last layer rules afterwards.
    Both teach from an auxiliary network of the student's depth, the authors without labels: here that is the choice of
    the teacher and of ce_weight. The authors' Adam does not feel the loss's scale; SGD beside a cross-entropy does,
    hence the feat_weight of their form in configs/method/hkd.yaml.

    Checked number by number against both codes in float64. Their float32 is noise: the distance of a sample to itself
    is |x|^2 + |x|^2 - 2 <x, x>, and what rounding leaves of it goes under a root. Here it is 0.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """init_weight, decay: of the earlier layers, see above; feat_weight: of the sum over layers."""

        init_weight: Annotated[float, Field(ge=0)] = 100.0
        decay: Annotated[float, Field(gt=0, le=1)] = 0.7
        feat_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        "semckd": "stages only, the first one weighs init_weight for good; of the longer list the last are unused",
        "paper": "earlier layers fade with the epochs; stage lists of equal length",
        "aligned": "as paper; of the longer list the first stages are unused",
    }
    relates_samples = True
    needs = Signal.LOGITS | Signal.POOLED | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        pairing, self.combine = {"semckd": ("simkd", self.first_rules)}.get(
            self.variant, (self.variant, self.last_rules)
        )
        advice = "variant=semckd (the first ones of both) or variant=aligned (the last ones of both)"
        self.pairs = stage_pairs(setting, pairing, "hkd", advice)

    def stage_terms(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """flow_loss of each pair of stages, without weight."""
        flows = [
            flow_loss(self.gather(student.features[i].flatten(1)), self.gather(teacher.features[j].flatten(1)))
            for i, j in self.pairs
        ]
        return torch.stack(flows)

    def last_rules(self, student: ModelOutput, teacher: ModelOutput, progress: Tensor) -> Tensor:
        """The authors' weights."""
        last = flow_loss(self.gather(student.pooled_BD), self.gather(teacher.pooled_BD))
        fading = self.config.init_weight * self.config.decay ** progress.floor().to(last.dtype)
        return last + fading * self.stage_terms(student, teacher).sum()

    def first_rules(self, student: ModelOutput, teacher: ModelOutput, progress: Tensor) -> Tensor:
        """SemCKD's weights."""
        stages = self.stage_terms(student, teacher)
        return self.config.init_weight * stages[0] + stages[1:].sum()

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = label_terms(self, student, teacher, batch)
        return terms | {"hkd": self.config.feat_weight * self.combine(student, teacher, progress)}
