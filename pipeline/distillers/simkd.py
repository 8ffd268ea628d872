"""SimKD: the teacher's classifier, reused. Chen et al. 2022 (CVPR, arXiv 2203.14001): feature alignment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Shapes, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.layers import BatchNorm, frozen_classifier
from pipeline.distillers.common.maps import activated, pool_to, teacher_shapes


def projector(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """1x1, 3x3, 1x1 convolutions without bias, BN and ReLU after each; the middle has out_channels / factor."""
    mid = out_channels // factor
    return nn.Sequential(
        nn.Conv2d(in_channels, mid, 1, bias=False), BatchNorm(mid), nn.ReLU(),
        nn.Conv2d(mid, mid, 3, padding=1, bias=False), BatchNorm(mid), nn.ReLU(),
        nn.Conv2d(mid, out_channels, 1, bias=False), BatchNorm(out_channels), nn.ReLU(),
    )  # fmt: skip


@DISTILLERS.register("simkd")
class SimKD(Distiller):
    """feat_weight * MSE(projected student map, teacher map) + ce_weight * CE, with ce_weight 0.

    One variant: SimKD's code is the authors'. The larger map is pooled to the smaller size first. The student predicts
    through the projector and the teacher's frozen classifier, both part of this module's state: a checkpoint predicts
    without the teacher. CE stays as a term of weight 0: as in the authors' code the student's own head gets gradients
    of zero (weight decay only), and DDP sees every parameter used. The teacher's map is taken after its last ReLU,
    which for wrn is the ReLU of its final BN: what its classifier pools.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """factor: the projector's reduction of channels (published: 2, 4, 8); feat_weight, ce_weight: of the terms."""

        factor: Annotated[int, Field(ge=1)] = 2
        feat_weight: Annotated[float, Field(ge=0)] = 1.0
        ce_weight: Annotated[float, Field(ge=0)] = 0.0

    needs = Signal.FEATURES | Signal.WEIGHTS
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, teacher = teacher_shapes(setting, "simkd")
        student = setting.student
        channels, height, width = teacher.features[-1]
        self.classifier = frozen_classifier(setting, "simkd")
        if self.classifier.in_features != channels:
            raise InputError(
                f"simkd reuses the teacher's classifier on its last map, but that has {channels} channels and the"
                f" classifier takes {self.classifier.in_features}: a layer lies between"
            )
        if channels < config.factor:
            raise InputError(f"simkd: factor={config.factor} leaves nothing of {channels} channels")
        self.projector = projector(student.features[-1][0], channels, config.factor)
        self.built_for = student.features[-1][1:]
        self.shrinks = self.built_for[0] > height
        self.size = (height, width) if self.shrinks else self.built_for
        # In the state dict, so that a checkpoint alone tells how far to pool.
        self.register_buffer("map_size", torch.tensor(self.size))

    @classmethod
    def for_inference(cls, config: Any, state: Mapping[str, Tensor], student: Shapes) -> "SimKD":
        """The method as `state` (its state dict) describes it, without a teacher: for `predict` only.

        Raises InputError when the student's map does not fit the projector.
        """
        classes, channels = state["classifier.weight"].shape
        wanted = state["projector.0.weight"].shape[1]
        if student.features[-1][0] != wanted:
            raise InputError(f"simkd's projector takes {wanted} channels, the student gives {student.features[-1][0]}")
        height, width = (int(side) for side in state["map_size"])
        teacher = Shapes(classes, channels, ((channels, height, width),))
        head = nn.Linear(channels, classes, bias="classifier.bias" in state)
        method = cls(config, Setting(student=student, teacher=teacher, classifier=head))
        method.load_state_dict(dict(state))
        return method.eval()

    def projected(self, student: ModelOutput) -> Tensor:
        """P(student map), B C_t H W: the map's own size, or reduced as the maps of the image size it was built for."""
        map_BCHW = student.features[-1]
        if self.shrinks:
            sides = zip(map_BCHW.shape[-2:], self.size, self.built_for, strict=True)
            map_BCHW = pool_to(map_BCHW, *(max(1, side * small // large) for side, small, large in sides))
        return self.projector(map_BCHW)

    def predict(self, student: ModelOutput) -> Tensor:
        """logits_BK: the teacher's classifier on the mean of the projected map."""
        return self.classifier(self.projected(student).mean(dim=(2, 3)))

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        projected_BCHW = self.projected(student)
        target_BCHW = pool_to(activated(teacher), *projected_BCHW.shape[-2:])
        return {
            "ce": self.config.ce_weight * self.task_loss(student.logits_BK, batch),
            "simkd": self.config.feat_weight * F.mse_loss(projected_BCHW, target_BCHW),
        }
