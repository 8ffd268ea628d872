"""Overhaul of feature distillation. Heo et al. 2019 (arXiv 1904.01866): margin ReLU, partial L2."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.layers import BatchNorm
from pipeline.distillers.common.maps import Shape, pool_to, teacher_shapes
from pipeline.distillers.common.terms import LabelWeights, label_terms


@torch.no_grad()
def ofd_margin(norm: nn.BatchNorm2d) -> Tensor:
    """E[x | x < 0] of x ~ N(bias, weight^2) per channel, float32 [C]: the margin.

    -3 |weight| where x < 0 is rarer than .001. Computed in float64 and kept in float32, as published.
    """
    sigma_C = norm.weight.double().abs().clamp_min(1e-30)  # a channel that BN switched off: no 0 / 0
    mu_C = norm.bias.double()
    ratio_C = mu_C / sigma_C
    below_C = torch.special.ndtr(-ratio_C)
    density_C = torch.exp(-ratio_C.square() / 2) / math.sqrt(2 * math.pi)
    mean_C = mu_C - sigma_C * density_C / below_C.clamp_min(0.001)
    return torch.where(below_C > 0.001, mean_C, -3 * sigma_C).float()


def partial_l2(student_BCHW: Tensor, teacher_BCHW: Tensor, margin_C: Tensor) -> Tensor:
    """The partial L2 distance, summed over C, H, W, mean over the batch, a scalar.

    The target is max(teacher, margin); where the teacher is not positive and the student below the target, nothing is
    asked.
    """
    target_BCHW = torch.maximum(teacher_BCHW, margin_C[:, None, None])
    asked_BCHW = (teacher_BCHW > 0) | (student_BCHW > target_BCHW)
    gap_BCHW = (student_BCHW - target_BCHW).masked_fill(~asked_BCHW, 0.0)
    return gap_BCHW.square().flatten(1).sum(dim=1).mean()


def connector(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, N(0, sqrt(2 / (k^2 C_out))), and BN."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (kernel * kernel * out_channels)))
    return nn.Sequential(conv, BatchNorm(out_channels))


@DISTILLERS.register("ofd")
class OFD(Distiller):
    """ce_weight * CE + feat_weight * sum over stages of 2^-(distance from the last stage) * partial_l2 (+ KD).

    Maps are those before the last ReLU of each stage, of the longer list the last ones. The margins come from the
    teacher's BN before that ReLU. The authors' code is the default; where it has no case, for maps of unlike sizes, it
    is completed as in mdistiller: the teacher's are pooled to the student's. The authors' trainers and mdistiller's
    leave the teacher in training mode (batch statistics, drifting running ones), which the paper argues for (table 8)
    and no loss can bring about: see teacher_in_train_mode. `paper` has no weights of stages, and wants equal sizes.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """kernel: of the connectors; feat_weight: of the sum over stages (ImageNet: 1e-4)."""

        kernel: Literal[1, 3, 5] = 1
        feat_weight: Annotated[float, Field(ge=0)] = 1e-3

    variants: ClassVar[Mapping[str, str]] = {
        "original": "stages weigh 1, 1/2, 1/4 ... from the last one; teacher in training mode",
        "mdistiller": "as original",
        "paper": "stages weigh the same, maps of equal size only; teacher in training mode",
        "eval_teacher": "as original, of a teacher in eval mode: ours",
    }
    revised: ClassVar[Mapping[str, str]] = {
        "original": "form of a teacher in training mode, as the authors' trainers leave it",
        "paper": "form of a teacher in training mode, as the paper argues for",
    }
    teacher_in_train_mode: ClassVar[frozenset[str]] = frozenset({"original", "mdistiller", "paper"})
    needs = Signal.LOGITS | Signal.FEATURES | Signal.WEIGHTS
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, teacher = teacher_shapes(setting, "ofd")
        student = setting.student
        if not student.preact or not teacher.preact:
            who = "teacher" if student.preact else "student"
            raise InputError(f"ofd compares maps before their last ReLU, and the {who} has none")
        self.levels = min(len(student.preact), len(teacher.preact)) - 1
        if len(setting.norms) < self.levels:
            raise InputError("ofd needs the batch norm before each stage's last ReLU of the teacher, which has none")
        pairs = list(zip(student.preact[-self.levels :], teacher.preact[-self.levels :], strict=True))
        decay, check = {"paper": (1.0, _check_sizes)}.get(self.variant, (0.5, _any_sizes))
        check(pairs)
        self.weights = [decay ** (self.levels - 1 - i) for i in range(self.levels)]
        self.connectors = nn.ModuleList(connector(s[0], t[0], config.kernel) for s, t in pairs)
        for i, norm in enumerate(setting.norms[-self.levels :]):
            self.register_buffer(f"margin{i}", ofd_margin(norm))

    def margins(self) -> list[Tensor]:
        """One [C] per level."""
        return [self.get_buffer(f"margin{i}") for i in range(self.levels)]

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        students, teachers = student.preact_features[-self.levels :], teacher.preact_features[-self.levels :]
        total = student.logits_BK.new_zeros(())
        for weight, connect, s_BCHW, t_BCHW, margin_C in zip(
            self.weights, self.connectors, students, teachers, self.margins(), strict=True
        ):
            total = total + weight * partial_l2(connect(s_BCHW), pool_to(t_BCHW, *s_BCHW.shape[-2:]), margin_C)
        return label_terms(self, student, teacher, batch) | {"ofd": self.config.feat_weight * total}


def _any_sizes(pairs: list[tuple[Shape, Shape]]) -> None:
    pass


def _check_sizes(pairs: list[tuple[Shape, Shape]]) -> None:
    for student, teacher in pairs:
        if student[1:] != teacher[1:]:
            raise InputError(
                f"ofd pairs a student map of {student[1]} x {student[2]} with a teacher map of"
                f" {teacher[1]} x {teacher[2]}: variant=paper does not resize, variant=original does"
            )
