"""ReviewKD. Chen, Liu, Zhao and Jia 2021 (arXiv 2104.09044), section 3: residual review, attention fusion, HCL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Shapes, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.fusion import Fusion
from pipeline.distillers.common.maps import Shape, pool_to, preact, preact_shapes, teacher_shapes
from pipeline.distillers.common.terms import LabelWeights, label_terms


def hcl(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Hierarchical context loss, a scalar: MSE of the maps and of their poolings to 4, 2, 1, weights 1, 1/2, 1/4, 1/8.

    Poolings that are not smaller than the map are left out; the weights that remain are divided by their sum.
    """
    loss, weight, total = F.mse_loss(student_BCHW, teacher_BCHW), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student_BCHW.shape[-2]:
            weight /= 2
            total += weight
            pooled = F.mse_loss(pool_to(student_BCHW, size, size), pool_to(teacher_BCHW, size, size))
            loss = loss + weight * pooled
    return loss / total


def review_levels(shapes: Sequence[Shape], pooled: int, count: int) -> list[Shape]:
    """The pooled vector as a map of 1 x 1 and the last `count` stages, the deepest first."""
    return [(pooled, 1, 1), *reversed(shapes[len(shapes) - count :])]


def stage_count(student: Shapes, teacher: Shapes, stemless_student: bool) -> int:
    """Stages (without the stem) that both networks have."""
    return min(len(student.features) - (not stemless_student), len(teacher.features) - 1)


@DISTILLERS.register("reviewkd", "kr")
class ReviewKD(Distiller):
    """ce_weight * CE + warm-up * feat_weight * sum over levels of hcl(fused student, teacher) (+ KD).

    Student: maps after the last ReLU (student_preact: before it) and the pooled vector; teacher: maps before it and the
    pooled vector. Channels and sizes, which mdistiller wants as four lists, come from the networks' shapes; of the
    longer list of stages the last ones are used, so that every pair works. One variant: the authors' code and
    mdistiller compute the same.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """mid_channels: at most, of the fusions (never more than the student's pooled width); warmup: whole epochs over
        which the weight grows from 1 / warmup to 1; student_preact: see above (ImageNet); stemless_student: the
        student's first map is a stage already (MobileNetV1); feat_weight: of the sum.
        """

        mid_channels: Annotated[int, Field(ge=1, le=8192)] = 512
        warmup: Annotated[int, Field(ge=1)] = 20
        student_preact: bool = False
        stemless_student: bool = False
        feat_weight: Annotated[float, Field(ge=0)] = 5.0

    needs = Signal.LOGITS | Signal.POOLED | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, teacher = teacher_shapes(setting, "reviewkd")
        student = setting.student
        self.stages = stage_count(student, teacher, config.stemless_student)
        students = review_levels(student.features, student.pooled, self.stages)
        teachers = review_levels(preact_shapes(teacher), teacher.pooled, self.stages)
        mid = min(config.mid_channels, student.pooled)
        self.fusions = nn.ModuleList(
            Fusion(s, t, mid, deepest=i == 0) for i, (s, t) in enumerate(zip(students, teachers, strict=True))
        )

    def _deep_first(self, maps: Sequence[Tensor], pooled_BD: Tensor) -> list[Tensor]:
        return [pooled_BD[:, :, None, None], *reversed(maps[len(maps) - self.stages :])]

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        own = preact(student) if self.config.student_preact else student.features
        students = self._deep_first(own, student.pooled_BD)
        teachers = self._deep_first(preact(teacher), teacher.pooled_BD)
        residual_BCHW: Tensor | None = None
        losses = []
        for fuse, s_BCHW, t_BCHW in zip(self.fusions, students, teachers, strict=True):
            fused_BCHW, residual_BCHW = fuse(s_BCHW, residual_BCHW, t_BCHW.shape[-2:])
            losses.append(hcl(fused_BCHW, t_BCHW))
        grown = ((progress.floor() + 1) / self.config.warmup).clamp(max=1.0)
        review = self.config.feat_weight * grown * torch.stack(losses).sum()
        return label_terms(self, student, teacher, batch) | {"review": review}
