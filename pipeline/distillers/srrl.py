"""Softmax regression representation learning. Yang et al. 2021 (ICLR): feature matching and softmax regression."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.layers import BatchNorm, frozen_classifier
from pipeline.distillers.common.maps import teacher_shapes
from pipeline.distillers.common.terms import LabelWeights, label_terms


def adaptor(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution without bias, BN, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(conv, BatchNorm(out_channels), nn.ReLU())


def published_start(layers: nn.Sequential) -> None:
    """The authors' first weights of the adaptor on maps: N(0, sqrt(2 / C_out))."""
    conv = layers[0]
    assert isinstance(conv, nn.Conv2d)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / conv.out_channels))


def pooled_input(student: ModelOutput) -> Tensor:
    """B D 1 1."""
    return student.pooled_BD[:, :, None, None]


def map_input(student: ModelOutput) -> Tensor:
    """B C H W."""
    return student.features[-1]


@DISTILLERS.register("srrl")
class SRRL(Distiller):
    """ce_weight * CE + feat_weight * MSE(v, f_t) + regression_weight * MSE(W_t v + b_t, z_t) (+ KD).

    v: the adapted student feature, f_t, z_t: the teacher's pooled vector and logits, W_t, b_t: its frozen classifier.
    SimKD's form is the default: its table of CIFAR-100 is the published one. There the adaptor sees the pooled vector,
    in the authors' code (ImageNet) the last map, which is pooled afterwards: BN and ReLU come between, so that the
    results differ. A KD term belongs to SimKD's recipe only. kdrefine's loop has the same formula but does not run.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """feat_weight, regression_weight: of the two terms."""

        feat_weight: Annotated[float, Field(ge=0)] = 1.0
        regression_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        "simkd": "adaptor on the pooled vector",
        "kdrefine": "as simkd",
        "original": "adaptor on the last map, pooled afterwards; its own first weights",
        "paper": "as original, whose code is the authors'",
    }
    needs = Signal.LOGITS | Signal.POOLED | Signal.WEIGHTS

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, teacher = teacher_shapes(setting, "srrl")
        student = setting.student
        self.student_features = {"original": True, "paper": True}.get(self.variant, False)
        if self.student_features and not student.features:
            raise InputError("srrl reads the last map, and the student has no stage maps: choose variant=simkd")
        self.student_input = map_input if self.student_features else pooled_input
        width = student.features[-1][0] if self.student_features else student.pooled
        self.adaptor = adaptor(width, teacher.pooled)
        if self.student_features:
            published_start(self.adaptor)
        self.classifier = frozen_classifier(setting, "srrl")

    def adapted(self, student: ModelOutput) -> Tensor:
        """v, B x the teacher's pooled width."""
        return self.adaptor(self.student_input(student)).mean(dim=(2, 3))

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        v_BD = self.adapted(student)
        return label_terms(self, student, teacher, batch) | {
            "feature": c.feat_weight * F.mse_loss(v_BD, teacher.pooled_BD),
            "regression": c.regression_weight * F.mse_loss(self.classifier(v_BD), teacher.logits_BK),
        }
