"""EDKD: decoupled distillation with a weight from the teacher's confidence. Built on Zhao et al. 2022, equation 7."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.dkd import decouple, decoupled_rows, warm_up

Weight = Callable[[Tensor, Tensor, float, float], Tensor]


def confidence(logits_BK: Tensor, label_B: Tensor, T: float) -> Tensor:
    """B: the larger probability of label and not label at temperature T, in [.5, 1]."""
    return torch.sigmoid(decouple(logits_BK / T, label_B).margin_B.abs())


def rest_weight(teacher_BK: Tensor, label_B: Tensor, beta: float, T: float) -> Tensor:
    """B: beta * exp(confidence - 1) of the teacher, between .61 and 1 times beta."""
    return beta * (confidence(teacher_BK, label_B, T) - 1).exp()


def target_weight(teacher_BK: Tensor, label_B: Tensor, beta: float, T: float) -> Tensor:
    """B: beta * exp(p - 1), p the teacher's probability of the label at temperature T: between .37 and 1 times beta."""
    return beta * (torch.sigmoid(decouple(teacher_BK / T, label_B).margin_B) - 1).exp()


@DISTILLERS.register("edkd")
class EDKD(Distiller):
    """ce_weight * cross-entropy + warm-up * T^2 * mean_B (alpha * target + weight * rest).

    The authors' code is the default, as its tables come from it: its weight looks at the larger one of the teacher's
    probabilities of label and not label, and it takes the mean of the rest before the weight, so that only the mean
    weight of the batch counts. `paper` is the formula that they give (the picture in their README, there is no paper):
    beta * exp(-(1 - p)) with the probability p of the label, times each sample's own rest. alpha = 1 and beta = 8 are
    fixed in that code whatever its configuration says (1 and 10).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature; alpha, beta: weights of target and (at full confidence) rest; warmup: epochs, as in dkd."""

        T: Annotated[float, Field(gt=0)] = 4.0
        alpha: Annotated[float, Field(ge=0)] = 1.0
        beta: Annotated[float, Field(ge=0)] = 8.0
        warmup: Annotated[int, Field(ge=1)] = 20
        ce_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        "edkd": "mean weight of the batch times its mean rest, as the authors' code",
        "paper": "each sample's rest by its own weight, from the teacher's probability of the label",
    }
    revised: ClassVar[Mapping[str, str]] = {"paper": "form that weighs by the teacher's probability of the label"}
    relates_samples = True
    needs = Signal.LOGITS

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        forms: dict[str, tuple[Weight, Callable[[Tensor, Tensor], Tensor]]] = {
            "edkd": (rest_weight, self._by_mean),
            "paper": (target_weight, torch.mul),
        }
        self.weight, self.weigh = forms[self.variant]

    def _by_mean(self, weight_B: Tensor, rest_B: Tensor) -> Tensor:
        # A product of two batch means: the weight's is that of the global batch, the rest's is left to the engine.
        return self.gather(weight_B).mean() * rest_B

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        target_B, rest_B = decoupled_rows(student.logits_BK, teacher.logits_BK, batch.label_B, c.T)
        weight_B = self.weight(teacher.logits_BK, batch.label_B, c.beta, c.T)
        loss = (c.alpha * target_B + self.weigh(weight_B, rest_B)).mean() * c.T**2
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": warm_up(progress, c.warmup, loss) * loss,
        }
