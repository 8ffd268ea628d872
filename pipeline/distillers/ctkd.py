"""Curriculum temperature. Li et al. 2023 (AAAI, arXiv 2211.16231), eqs. 3 to 6."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.temperatures import InstanceTemperature, instance_temperature_loss
from pipeline.distillers.dkd import dkd_loss
from pipeline.distillers.lskd import standardise

BY_SAMPLE = {"instance"}  # variants with a temperature for each sample


def curriculum(epoch: Tensor, first: float, last: float, loops: int) -> Tensor:
    """Factor of the temperature's gradient: a half cosine from `first` at epoch 0 to `last` at epoch `loops`."""
    return last + (first - last) * 0.5 * (1 + torch.cos(epoch.clamp(0, loops) * (math.pi / loops)))


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """x, through which gradients pass times `factor`."""
    return x.detach() + factor * (x - x.detach())


def learned_temperature_loss(student_BK: Tensor, teacher_BK: Tensor, T_1: Tensor) -> Tensor:
    """T^2 * mean_B KL(softmax(teacher / T) || softmax(student / T)), [1], differentiable by T_1 [1]."""
    log_p_BK, log_q_BK = F.log_softmax(student_BK / T_1, dim=1), F.log_softmax(teacher_BK / T_1, dim=1)
    return F.kl_div(log_p_BK, log_q_BK, reduction="batchmean", log_target=True) * T_1**2


@DISTILLERS.register("ctkd")
class CTKD(Distiller):
    """KD whose temperature t_start + span * sigmoid(g) is trained against the student (reversed gradient).

    g starts at 1. The official code, the default because its tables come from it, adds its end of 20 to its start of 1:
    the range is 1..21 and the first temperature 15.6. The paper states 1..20: `paper` starts at 14.9. Weight decay
    pulls on g as on any other parameter, as in the code. With DKD instead of KD (the paper's DKD + CTKD): kd_weight=0,
    dkd_alpha=1, dkd_beta=1 on ImageNet, 2 on CIFAR-100, as the commands in the code's scripts; no warm-up.

    `instance` has a small network give g for each sample, in the code's range, from 11 on. Certain: the loss (README of
    the code), and two layers of 1x1 convolutions over the concatenated outputs of both networks (the authors' project
    page). The network's file lies outside their repository. Softmax, the order by the teacher's probability, its first
    100 classes, the width of 256, the batch norm and the start at 0 are those of a public copy that could not be
    compared with it: do not hold its accuracies against the paper's.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """t_start: least temperature; t_range: width of its range (variant paper: its end); decay_first, decay_last:
        factors of its gradient at the beginning and after decay_loops epochs (counted from 1); ce_weight, kd_weight: of
        the two terms; dkd_alpha, dkd_beta: of DKD's parts at the same temperature, none at 0; standardise: compare
        z-scores of the logits (see lskd)."""

        t_start: Annotated[float, Field(gt=0)] = 1.0
        t_range: Annotated[float, Field(ge=0)] = 20.0
        decay_first: float = 0.0
        decay_last: float = -1.0
        decay_loops: Annotated[int, Field(ge=1)] = 10
        ce_weight: Annotated[float, Field(ge=0)] = 0.1
        kd_weight: Annotated[float, Field(ge=0)] = 0.9
        dkd_alpha: Annotated[float, Field(ge=0)] = 0.0
        dkd_beta: Annotated[float, Field(ge=0)] = 0.0
        standardise: bool = False

    variants: ClassVar[Mapping[str, str]] = {
        "original": "t_start + t_range * sigmoid(g), as the official code: 1..21",
        "paper": "t_start + (t_range - t_start) * sigmoid(g): 1..20",
        "instance": "as original, g of each sample by a network of two layers, partly reconstructed",
    }

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.span = config.t_range - {"paper": config.t_start}.get(self.variant, 0.0)
        if self.span < 0:
            raise InputError(f"ctkd: t_start={config.t_start} is above the end of the range, t_range={config.t_range}")
        self.network: InstanceTemperature | None = None
        self.kd_loss: Callable[[Tensor, Tensor, Tensor], Tensor] = learned_temperature_loss
        if self.variant in BY_SAMPLE:
            if setting is None:
                raise InputError("ctkd: variant=instance needs the number of classes")
            if config.dkd_alpha or config.dkd_beta:
                raise InputError("ctkd: variant=instance has no DKD part: leave out dkd_alpha and dkd_beta")
            self.network, self.kd_loss = InstanceTemperature(setting.student.classes), instance_temperature_loss
        else:
            self.global_T = nn.Parameter(torch.ones(1))

    def temperature(self, factor: Tensor) -> Tensor:
        """[1]; its gradient by global_T is multiplied by `factor`."""
        return self.in_range(self.global_T, factor)

    def in_range(self, g: Tensor, factor: Tensor) -> Tensor:
        """Temperatures of any shape of g, whose gradient is multiplied by `factor`."""
        return self.config.t_start + self.span * torch.sigmoid(scale_gradient(g, factor))

    def gradient_factor(self, progress: Tensor) -> Tensor:
        """Of the epoch that is under way at `progress` completed epochs; 0-d."""
        c = self.config
        return curriculum(progress.floor() + 1, c.decay_first, c.decay_last, c.decay_loops)

    def compared(self, output: ModelOutput) -> Tensor:
        """B x K: the logits, or their z-scores."""
        return standardise(output.logits_BK) if self.config.standardise else output.logits_BK

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        factor, network = self.gradient_factor(progress), self.network
        own = None if network is None else network(student.logits_BK, teacher.logits_BK)
        T = self.temperature(factor) if own is None else self.in_range(own, factor)  # [1] or [B]
        pair = self.compared(student), self.compared(teacher)
        terms = {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": c.kd_weight * self.kd_loss(*pair, T).reshape(()),
        }
        if c.dkd_alpha or c.dkd_beta:
            terms["dkd"] = dkd_loss(*pair, batch.label_B, c.dkd_alpha, c.dkd_beta, T).reshape(())
        return terms
