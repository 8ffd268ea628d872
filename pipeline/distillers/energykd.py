"""EnergyKD: a temperature for each sample, by its energy. Kim, Ham, Lee, Jang and Kim 2023 (arXiv 2311.14334)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.energy import EnergyBands


def kl_rows(student_BK: Tensor, teacher_BK: Tensor, T: float | Tensor) -> Tensor:
    """B: KL(softmax(teacher / T) || softmax(student / T)) of each row. T: a number or B x 1."""
    log_p_BK, log_q_BK = F.log_softmax(teacher_BK / T, dim=1), F.log_softmax(student_BK / T, dim=1)
    return F.kl_div(log_q_BK, log_p_BK, reduction="none", log_target=True).sum(dim=1)


class Temperatures(nn.Module):
    """A temperature for each sample: what EnergyKD and EnergyDKD share. Call: teacher's logits_BK -> T_B."""

    variants: ClassVar[Mapping[str, str]] = {
        "energykd": "low energy gets T_low, high energy T_high, as the authors' code and configurations",
        "paper": "low energy gets T_high, high energy T_low, as the paper's abstract; thresholds of all rows",
    }

    def __init__(self, config: Any, setting: Setting | None, variant: str) -> None:
        super().__init__()
        c, size = config, setting.batch_size if setting else 1
        self.by_band, size = {
            "energykd": ((c.T_low, c.T_mid, c.T_high), size),
            "paper": ((c.T_high, c.T_mid, c.T_low), 1),
        }[variant]
        self.bands = EnergyBands(c.energy_T, c.low_rate, c.high_rate, size)

    def forward(self, teacher_BK: Tensor) -> Tensor:
        return self.bands.choose(teacher_BK, *self.by_band)


@DISTILLERS.register("energykd")
class EnergyKD(Distiller):
    """ce_weight * cross-entropy + kd_weight * mean_B T_B^2 * KL at each sample's own temperature T_B.

    The authors' code is the default: its configurations (6 / 4 / 2) belong to that order of temperatures, which is the
    reverse of the paper's text.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T_low, T_mid, T_high: temperatures; low_rate, high_rate: shares of the training set in the outer bands.

        energy_T: temperature of the energy; ce_weight, kd_weight: of the two terms.
        """

        T_low: Annotated[float, Field(gt=0)] = 2.0
        T_mid: Annotated[float, Field(gt=0)] = 4.0
        T_high: Annotated[float, Field(gt=0)] = 6.0
        energy_T: Annotated[float, Field(gt=0)] = 4.0
        low_rate: Annotated[float, Field(ge=0, lt=1)] = 0.2
        high_rate: Annotated[float, Field(ge=0, lt=1)] = 0.2
        ce_weight: Annotated[float, Field(ge=0)] = 0.1
        kd_weight: Annotated[float, Field(ge=0)] = 0.9

    variants = Temperatures.variants
    needs = Signal.LOGITS
    teacher_pass = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.temperature = Temperatures(config, setting, self.variant)

    def digest(self, logits_BK: Tensor) -> Tensor:
        return self.temperature.bands.digest(logits_BK)

    def learn(self, digest_NE: Tensor, label_N: Tensor) -> None:
        self.temperature.bands.learn(digest_NE)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        T_B = self.temperature(teacher.logits_BK)
        kl_B = kl_rows(student.logits_BK, teacher.logits_BK, T_B[:, None])
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": c.kd_weight * (T_B.square() * kl_B).mean(),
        }
