"""Flow of solution procedure. Yim, Joo, Bae and Kim 2017 (CVPR, "A Gift from Knowledge Distillation")."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, FirstStage, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.maps import max_pool_to, pool_to, teacher_shapes, to_smaller
from pipeline.distillers.common.terms import LabelWeights, label_terms

Pool = Callable[[Tensor, int, int], Tensor]
Gap = Callable[[Tensor, Tensor], Tensor]


def fsp_matrix(bottom_BCHW: Tensor, top_BEHW: Tensor, pool: Pool = pool_to) -> Tensor:
    """Mean over positions of products of two maps' channels, B C E; the larger map is pooled to the smaller first."""
    bottom_BCHW, top_BEHW = to_smaller(bottom_BCHW, top_BEHW, pool)
    bottom_BCP, top_BEP = bottom_BCHW.flatten(2), top_BEHW.flatten(2)
    return bottom_BCP @ top_BEP.transpose(1, 2) / bottom_BCP.shape[2]


def mean_gap(student_BCE: Tensor, teacher_BCE: Tensor) -> Tensor:
    """Mean of squared differences, a scalar."""
    return (student_BCE - teacher_BCE).square().mean()


def norm_gap(student_BCE: Tensor, teacher_BCE: Tensor) -> Tensor:
    """Squared Frobenius norm of the difference, mean over the batch, a scalar: the paper's loss."""
    return (student_BCE - teacher_BCE).square().flatten(1).sum(dim=1).mean()


@DISTILLERS.register("fsp")
class FSP(Distiller):
    """First stage: feat_weight * sum over consecutive maps of gap(FSP matrices). Then ce_weight * CE (+ KD).

    The first stage trains the student's stem and stages. RepDistiller, the source of the published table and the
    default, takes means over a matrix and average pooling, the paper sums and max pooling. Matrices run from each map
    to the next one, the stem included: from what enters a stage to what leaves it. The paper (and torchdistill) take
    two maps inside a stage, the first one after its strided block; networks give no such maps here, so that in `paper`
    a stage with a stride has its input, max pooled, in that place. A first stage without stride is as published.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """feat_weight: of the sum over pairs of maps; first_epochs, first_lr: of the first stage."""

        feat_weight: Annotated[float, Field(ge=0)] = 1.0
        first_epochs: Annotated[int, Field(ge=0)] = 30
        first_lr: Annotated[float, Field(gt=0)] = 0.05

    variants: ClassVar[Mapping[str, str]] = {
        "repdistiller": "mean of squared differences over the entries of a matrix; average pooling",
        "paper": "their sum: the squared norm of the difference; max pooling",
    }
    revised: ClassVar[Mapping[str, str]] = {"paper": "form that pools by max"}
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True
    first_stage_trains: Literal["stages", "own", "stages+own"] = "stages"

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, shapes = teacher_shapes(setting, "fsp")
        student, teacher = ([shape[0] for shape in s.features] for s in (setting.student, shapes))
        if student != teacher:
            raise InputError(f"fsp needs equal widths of all maps, not {student} (student) and {teacher} (teacher)")
        forms: dict[str, tuple[Gap, Pool]] = {"repdistiller": (mean_gap, pool_to), "paper": (norm_gap, max_pool_to)}
        self.gap, self.pool = forms[self.variant]
        self.first_stage = FirstStage(config.first_epochs, config.first_lr) if config.first_epochs else None

    def flow_terms(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """One number per pair of consecutive maps, without weight."""
        flows = zip(pairwise(students), pairwise(teachers), strict=True)
        return torch.stack([self.gap(fsp_matrix(*s, self.pool), fsp_matrix(*t, self.pool)) for s, t in flows])

    def first_stage_terms(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        return {"fsp": self.config.feat_weight * self.flow_terms(student.features, teacher.features).sum()}

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        return label_terms(self, student, teacher, batch)
