"""Factor transfer. Kim, Park and Kwak 2018 (NeurIPS, "Paraphrasing Complex Network", arXiv 1802.04977)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, FirstStage, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.layers import BatchNorm
from pipeline.distillers.common.maps import teacher_shapes, to_smaller, unit_rows
from pipeline.distillers.common.paraphraser import Norm, Paraphraser, plain, stack_of
from pipeline.distillers.common.terms import LabelWeights, label_terms


def energy(factor_BCHW: Tensor, p: int) -> Tensor:
    """mean_C |factor|^p as unit vectors, B x HW: RepDistiller's factor."""
    return unit_rows(factor_BCHW.abs().pow(p).mean(dim=1).flatten(1))


def whole(factor_BCHW: Tensor, p: int) -> Tensor:
    """The factor as unit vectors, B x CHW: the paper's form."""
    return unit_rows(factor_BCHW.flatten(1))


def factor_loss(
    student_BCHW: Tensor, teacher_BCHW: Tensor, p1: int = 2, p2: int = 1, reading: Callable[..., Tensor] = energy
) -> Tensor:
    """Mean |reading(student) - reading(teacher)|^p2, a scalar; the larger factor is pooled to the smaller first."""
    student_BCHW, teacher_BCHW = to_smaller(student_BCHW, teacher_BCHW)
    return (reading(student_BCHW, p1) - reading(teacher_BCHW, p1)).abs().pow(p2).mean()


class Form(NamedTuple):
    """What the variants differ in. count: channels of a factor from k times the teacher's."""

    paraphraser: Norm
    translator: Norm
    reading: Callable[..., Tensor]
    reconstruction: Callable[[Tensor, Tensor], Tensor]
    count: Callable[[float], int]


@DISTILLERS.register("ft", "factor")
class FT(Distiller):
    """First stage: the paraphraser learns to reconstruct the teacher's last map. Then ce_weight * CE + feat_weight *
    factor_loss of the translator's factor of the student's last map (+ KD), the paraphraser frozen.

    RepDistiller, the source of the published table and the default, compares the mean energy over channels; the paper
    compares whole factors, and its paraphraser has batch norm. The authors' released code (`original`) compares whole
    factors too, but has no batch norm in either network, and trains the paraphraser by the absolute difference. Both
    have a weight of their own, 500 in that code.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """k: channels of the factor per channel of the teacher; p1, p2: exponents; feat_weight: of the factor loss;
        first_epochs, first_lr: of the first stage.
        """

        k: Annotated[float, Field(gt=0, le=16)] = 0.5
        p1: Annotated[int, Field(ge=1)] = 2
        p2: Annotated[int, Field(ge=1)] = 1
        feat_weight: Annotated[float, Field(ge=0)] = 200.0
        first_epochs: Annotated[int, Field(ge=0)] = 30
        first_lr: Annotated[float, Field(gt=0)] = 0.01

    variants: ClassVar[Mapping[str, str]] = {
        "repdistiller": "factors as mean energy over channels; paraphraser without batch norm",
        "paper": "whole factors; paraphraser with batch norm",
        "original": "whole factors; no batch norm, paraphraser trained by L1, as the authors' code",
    }
    forms_of: ClassVar[Mapping[str, Form]] = {
        "repdistiller": Form(plain, BatchNorm, energy, F.mse_loss, int),
        "paper": Form(BatchNorm, BatchNorm, whole, F.mse_loss, int),
        "original": Form(plain, plain, whole, F.l1_loss, round),
    }
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True
    first_stage_trains: Literal["stages", "own", "stages+own"] = "own"

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, shapes = teacher_shapes(setting, "ft")
        student, teacher = setting.student.features[-1][0], shapes.features[-1][0]
        form = self.forms_of[self.variant]
        factors = form.count(teacher * config.k)
        if factors == 0:
            raise InputError(f"ft: k={config.k} leaves nothing of the teacher's {teacher} channels")
        self.reading, self.reconstruction = form.reading, form.reconstruction
        self.paraphraser = Paraphraser(teacher, factors, form.paraphraser).requires_grad_(False)
        self.translator = stack_of(nn.Conv2d, [student, student, factors, factors], form.translator)
        self.first_stage = FirstStage(config.first_epochs, config.first_lr) if config.first_epochs else None

    def first_stage_modules(self) -> tuple[nn.Module, ...]:
        """Own modules that the first stage trains; they are frozen outside it."""
        return (self.paraphraser,)

    def train(self, mode: bool = True) -> "FT":
        """A frozen paraphraser stays in eval mode: its statistics are the first stage's."""
        super().train(mode)
        self.paraphraser.train(mode and any(p.requires_grad for p in self.paraphraser.parameters()))
        return self

    def first_stage_terms(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        map_BCHW = teacher.features[-1]
        return {"reconstruction": self.reconstruction(self.paraphraser(map_BCHW), map_BCHW)}

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        factor_s, factor_t = self.translator(student.features[-1]), self.paraphraser.encoder(teacher.features[-1])
        loss = factor_loss(factor_s, factor_t, c.p1, c.p2, self.reading)
        return label_terms(self, student, teacher, batch) | {"ft": c.feat_weight * loss}
