"""Activation boundaries. Heo, Lee, Yun and Choi 2019 (AAAI, arXiv 1811.03233): the hinge form."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, FirstStage, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.layers import BatchNorm, conv_between, fits_one_size
from pipeline.distillers.common.maps import Shape, preact, preact_shapes, teacher_shapes
from pipeline.distillers.common.terms import LabelWeights, label_terms


def boundary_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, margin: float) -> Tensor:
    """Squared hinge on the wrong side of the teacher's activation, summed over C, H, W, mean over the batch; a scalar.

    (s + m)^2 where the teacher is not positive and s > -m; (s - m)^2 where it is and s <= m.
    """
    sign_BCHW = torch.where(teacher_BCHW > 0, 1.0, -1.0).to(student_BCHW.dtype)
    return F.relu(margin - sign_BCHW * student_BCHW).square().flatten(1).sum(dim=1).mean()


def connector(student: Shape, teacher: Shape) -> nn.Module:
    """Identity where channels and height agree, else FitNet's convolution and BN, without activation."""
    if student[:2] == teacher[:2]:
        return nn.Identity()
    return nn.Sequential(conv_between(student, teacher), BatchNorm(teacher[0]))


@DISTILLERS.register("ab", "abound")
class AB(Distiller):
    """First stage: feat_weight * sum over stages of 2^-(distance from the last) * boundary_loss. Then ce_weight * CE.

    The first stage trains the student's stem and stages and the connectors (which are frozen and unused afterwards) at
    a constant rate; the training proper starts from there, with CE alone (+ KD). One variant: RepDistiller computes the
    paper's formula; the weights of stages and the factor 3/1000 are its and the authors' code's. Both networks' maps
    before the last ReLU are taken, and their lists must be equally long.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """margin: of the hinge; feat_weight: of the sum; first_epochs, first_lr: of the first stage."""

        margin: Annotated[float, Field(gt=0)] = 1.0
        feat_weight: Annotated[float, Field(ge=0)] = 3e-3
        first_epochs: Annotated[int, Field(ge=0)] = 30
        first_lr: Annotated[float, Field(gt=0)] = 0.05

    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True
    first_stage_trains: Literal["stages", "own", "stages+own"] = "stages+own"

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, shapes = teacher_shapes(setting, "ab")
        student, teacher = preact_shapes(setting.student)[1:], preact_shapes(shapes)[1:]
        if len(student) != len(teacher):
            raise InputError(f"ab compares stage by stage: the student has {len(student)}, the teacher {len(teacher)}")
        pairs = list(zip(student, teacher, strict=True))
        self.connectors = nn.ModuleList(connector(s, t) for s, t in pairs)
        self.fixed_size = any(fits_one_size(s, t) for s, t in pairs)
        self.connectors.requires_grad_(False)
        self.first_stage = FirstStage(config.first_epochs, config.first_lr) if config.first_epochs else None

    def first_stage_modules(self) -> tuple[nn.Module, ...]:
        """Own modules that the first stage trains; they are frozen outside it."""
        return (self.connectors,)

    def boundary_terms(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One weighted number per stage, [L]."""
        c = self.config
        students, teachers = preact(student)[1:], preact(teacher)[1:]
        last = len(self.connectors) - 1
        terms = [
            c.feat_weight * 2.0 ** (i - last) * boundary_loss(connect(s_BCHW), t_BCHW, c.margin)
            for i, (connect, s_BCHW, t_BCHW) in enumerate(zip(self.connectors, students, teachers, strict=True))
        ]
        return torch.stack(terms)

    def first_stage_terms(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        return {"ab": self.boundary_terms(student, teacher).sum()}

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        return label_terms(self, student, teacher, batch)
