"""SemCKD. Chen et al. 2021 (AAAI, arXiv 2012.03236): attention over all pairs of stages."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.layers import BatchNorm
from pipeline.distillers.common.maps import Maps, teacher_shapes, to_smaller, unit_rows
from pipeline.distillers.common.terms import LabelWeights, label_terms


class Embedding(nn.Module):
    """Rows of a Gram matrix (B x batch_size) as unit vectors of batch_size / 4 (query or key)."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        width = max(batch_size // 4, 1)
        self.linear1 = nn.Linear(batch_size, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)

    def forward(self, gram_BG: Tensor) -> Tensor:
        return unit_rows(self.linear2(F.relu(self.linear1(gram_BG))))


def regressor(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1, 3x3, 1x1 without bias over twice the output's channels, BN and ReLU between."""
    wide = 2 * out_channels
    return nn.Sequential(
        nn.Conv2d(in_channels, wide, 1, bias=False), BatchNorm(wide), nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1, bias=False), BatchNorm(wide), nn.ReLU(),
        nn.Conv2d(wide, out_channels, 1, bias=False),
    )  # fmt: skip


def attention(query_BSE: Tensor, key_BTE: Tensor, soft: float) -> Tensor:
    """B S T: for each sample and student stage the weights of the teacher's stages, sum 1. soft: temperature."""
    return torch.softmax(query_BSE @ key_BTE.transpose(1, 2) / soft, dim=2)


@DISTILLERS.register("semckd")
class SemCKD(Distiller):
    """ce_weight * CE + feat_weight * mean_B sum over pairs of attention * MSE(regressed student, teacher) / S (+ KD).

    SemCKD's own code, SimKD and KDrefine compute the same for full batches, so there is one variant. Queries and keys
    read rows of the B x B Gram matrix, whose width is a weight's shape. A short last batch, which SemCKD and SimKD skip
    and KDrefine reads with pixels of samples mixed up, is padded here with zero columns to the full batch size. The
    matrix relates all samples, so the maps are gathered. The two unused layers of each published embedding are left
    out: they get no gradient.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """soft: temperature of the attention; feat_weight: of the loss (ImageNet 50); kd_weight: SimKD has 1."""

        kd_weight: Annotated[float, Field(ge=0)] = 1.0
        soft: Annotated[float, Field(gt=0)] = 1.0
        feat_weight: Annotated[float, Field(ge=0)] = 400.0

    relates_samples = True
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, teacher = teacher_shapes(setting, "semckd")
        self.batch_size = setting.batch_size
        students, teachers = setting.student.features[1:], teacher.features[1:]
        self.queries = nn.ModuleList(Embedding(self.batch_size) for _ in students)
        self.keys = nn.ModuleList(Embedding(self.batch_size) for _ in teachers)
        self.regressors = nn.ModuleList(nn.ModuleList(regressor(s[0], t[0]) for t in teachers) for s in students)

    def _gram(self, map_BCHW: Tensor) -> Tensor:
        """Inner products of the own samples with those of the global batch, B x batch_size."""
        own_BP = map_BCHW.flatten(1)
        gram_BG = own_BP @ self.gather(own_BP).T
        return F.pad(gram_BG, (0, self.batch_size - gram_BG.shape[1]))

    def attention(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """B S T."""
        queries, keys = (
            torch.stack([embed(self._gram(m)) for embed, m in zip(layers, maps, strict=True)], dim=1)
            for layers, maps in ((self.queries, student.features[1:]), (self.keys, teacher.features[1:]))
        )
        return attention(queries, keys, self.config.soft)

    def errors(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """B S T: mean squared difference of each regressed student map from each teacher map."""
        pairs = zip(self.regressors, student.features[1:], strict=True)
        return torch.stack([_errors(row, s_BCHW, teacher.features[1:]) for row, s_BCHW in pairs], dim=1)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        weighted_BST = self.attention(student, teacher) * self.errors(student, teacher)
        loss = weighted_BST.sum(dim=2).mean()
        return label_terms(self, student, teacher, batch) | {"semckd": self.config.feat_weight * loss}


def _errors(regressors: nn.Module, student_BCHW: Tensor, teachers: Maps) -> Tensor:
    errors = []
    for regress, teacher_BCHW in zip(regressors.children(), teachers, strict=True):
        s_BCHW, t_BCHW = to_smaller(student_BCHW, teacher_BCHW)
        errors.append((regress(s_BCHW) - t_BCHW).square().flatten(1).mean(dim=1))
    return torch.stack(errors, dim=1)
