"""EnergyDKD: DKD with a temperature by energy. Kim, Ham, Lee, Jang and Kim 2023 (arXiv 2311.14334)."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.dkd import decoupled_rows, warm_up
from pipeline.distillers.energykd import Temperatures


@DISTILLERS.register("energydkd")
class EnergyDKD(Distiller):
    """ce_weight * cross-entropy + warm-up * mean_B T_B^2 * (alpha * target + beta * rest); see energykd and dkd.

    The authors' code is the default, for the reason that energykd gives.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T_low, T_mid, T_high: temperatures; low_rate, high_rate: shares of the training set in the outer bands.

        energy_T: temperature of the energy; alpha, beta: weights of target and rest; warmup: epochs, as in dkd.
        """

        T_low: Annotated[float, Field(gt=0)] = 2.0
        T_mid: Annotated[float, Field(gt=0)] = 4.0
        T_high: Annotated[float, Field(gt=0)] = 6.0
        energy_T: Annotated[float, Field(gt=0)] = 4.0
        low_rate: Annotated[float, Field(ge=0, lt=1)] = 0.2
        high_rate: Annotated[float, Field(ge=0, lt=1)] = 0.2
        alpha: Annotated[float, Field(ge=0)] = 1.0
        beta: Annotated[float, Field(ge=0)] = 8.0
        warmup: Annotated[int, Field(ge=1)] = 20
        ce_weight: Annotated[float, Field(ge=0)] = 1.0

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
        target_B, rest_B = decoupled_rows(student.logits_BK, teacher.logits_BK, batch.label_B, T_B[:, None])
        loss = (T_B.square() * (c.alpha * target_B + c.beta * rest_B)).mean()
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": warm_up(progress, c.warmup, loss) * loss,
        }
