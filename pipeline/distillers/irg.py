"""Instance relationship graph. Liu et al. 2019 (CVPR, "Knowledge Distillation via Instance Relationship Graph")."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.relations import squared_distances
from pipeline.distillers.stages import Pairs, stage_pairs
from pipeline.distillers.terms import LabelWeights, label_terms

STAGED = {"paper"}  # variants that follow the graph through the stages


def edges(x_BN: Tensor) -> Tensor:
    """Squared distances of the samples over the largest one, B x B."""
    square_BB = squared_distances(x_BN)
    return square_BB / (square_BB.max() + 1e-12)


def graph_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean squared difference of the edges, and of the vertices where their widths agree; a scalar."""
    loss = F.mse_loss(edges(student_BD), edges(teacher_BD))
    return loss + F.mse_loss(student_BD, teacher_BD) if student_BD.shape == teacher_BD.shape else loss


def change(edges_BB: list[Tensor]) -> Tensor:
    """Mean squared change of the edges from each layer to the next, one number for each step."""
    return torch.stack([F.mse_loss(a, b) for a, b in itertools.pairwise(edges_BB)])


@DISTILLERS.register("irg")
class IRG(Distiller):
    """ce_weight * cross-entropy + feat_weight * (graph_loss + transform_weight * transformation) (+ KD).

    From SemCKD's repository, the default and the only one with published weights (.005, CE 1, KD 1): squared
    distances over their maximum, means of squares, vertices of the pooled vectors only where widths agree, and no
    transformation, since its list of layers is empty as shipped. From the paper: the vertices of the last layer are
    the logits, and the change of the edges from stage to stage is compared too; its scaling is ours, like the edges'.
    Not checked against numbers of the official code.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """feat_weight: of the whole graph term; transform_weight: of the transformation inside it (variant paper)."""

        feat_weight: Annotated[float, Field(ge=0)] = 0.005
        transform_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        "semckd": "graph of the pooled vectors",
        "paper": "graph of pooled vectors and logits, and its change through stage lists of equal length",
    }
    relates_samples = True
    needs = Signal.LOGITS | Signal.POOLED | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        staged = self.variant in STAGED
        self.pairs: Pairs = stage_pairs(setting, self.variant, "irg", "variant=semckd (no stages)") if staged else ()
        self.graph = self.staged_graph if staged else self.pooled_graph

    def pooled_graph(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """SemCKD's term."""
        return graph_loss(self.gather(student.pooled_BD), self.gather(teacher.pooled_BD))

    def staged_graph(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """The paper's term."""
        vertices = F.mse_loss(self.gather(student.logits_BK), self.gather(teacher.logits_BK))
        student_edges = [edges(self.gather(student.features[i].flatten(1))) for i, _ in self.pairs]
        teacher_edges = [edges(self.gather(teacher.features[j].flatten(1))) for _, j in self.pairs]
        student_edges.append(edges(self.gather(student.pooled_BD)))
        teacher_edges.append(edges(self.gather(teacher.pooled_BD)))
        moved = F.mse_loss(change(student_edges), change(teacher_edges), reduction="sum")
        return vertices + F.mse_loss(student_edges[-1], teacher_edges[-1]) + self.config.transform_weight * moved

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = label_terms(self.config, student, teacher, batch)
        return terms | {"irg": self.config.feat_weight * self.graph(student, teacher)}
