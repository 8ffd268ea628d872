"""Instance relationship graph. Liu et al. 2019 (CVPR, "Knowledge Distillation via Instance Relationship Graph")."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Shapes, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.relations import displacement, squared_distances
from pipeline.distillers.common.stages import Pairs, both_shapes, stage_pairs
from pipeline.distillers.common.terms import LabelWeights, label_terms

STAGED = {"paper"}  # variants that follow the graph through the stages


def edges(x_BN: Tensor) -> Tensor:
    """Squared distances of the samples over the largest one, B x B."""
    square_BB = squared_distances(x_BN)
    return square_BB / (square_BB.max() + 1e-12)


def graph_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean squared difference of the edges, and of the vertices where their widths agree; a scalar."""
    loss = F.mse_loss(edges(student_BD), edges(teacher_BD))
    return loss + F.mse_loss(student_BD, teacher_BD) if student_BD.shape == teacher_BD.shape else loss


def euclidean_loss(student: Tensor, teacher: Tensor, rows: int) -> Tensor:
    """Half the sum of squared differences over `rows`, a scalar, as Caffe's layer of that name computes it."""
    return (student - teacher).square().sum() / (2 * rows)


def change(edges_BB: list[Tensor]) -> Tensor:
    """Mean squared change of the edges from each layer to the next, one number for each step."""
    return torch.stack([F.mse_loss(a, b) for a, b in itertools.pairwise(edges_BB)])


def comparable(shapes: Shapes, stage: int) -> bool:
    """Whether a stage's channels are a multiple of its input's, or its input's of its own."""
    before, after = shapes.features[stage - 1][0], shapes.features[stage][0]
    return max(before, after) % min(before, after) == 0


@DISTILLERS.register("irg")
class IRG(Distiller):
    """ce_weight * cross-entropy + feat_weight * graph (+ KD).

    From SemCKD's repository, the default and the only one with published figures (.005, CE 1, KD 1): squared distances
    over their maximum, means of squares, vertices of the pooled vectors only where widths agree, and no transformation,
    since its list of layers is empty as shipped. Checked number by number against it.

    `paper` is graph + transform_weight * transformation. The authors' code (yufanLIU/IRG, Caffe) has the edges of the
    pooled vectors, half the sum of squares over B, and the vertices' displacement inside a stage between globally
    pooled maps, half the sum of squares, each with the weight .005: at a batch of 64, 32 times SemCKD's means. The
    paper adds the logits as vertices of the last layer and the change of the edges from stage to stage, which that code
    leaves out; they are scaled as by its loss layer here, and weighed alike. Ours, because networks show one map a
    stage: a stage's input stands for its first block, and where the stage widens, neighbouring channels of its output
    are averaged, as Knowledge-Distillation-Zoo does; where widths are no multiples, the stage is left out. Their
    backward takes the maxima for constants and half of each pair's gradient; this is the formula's own. Their student
    compares blocks 4 and 5 where the teacher has 4 and 6, which looks like a slip and is not followed.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """feat_weight: of the whole graph term; transform_weight: of the transformation inside it (variant paper)."""

        feat_weight: Annotated[float, Field(ge=0)] = 0.005
        transform_weight: Annotated[float, Field(ge=0)] = 1.0

    variants: ClassVar[Mapping[str, str]] = {
        "semckd": "graph of the pooled vectors",
        "paper": "sums over the graph of pooled vectors and logits, and its change through stage lists of equal length",
    }
    revised: ClassVar[Mapping[str, str]] = {"paper": "sum on the authors' scale, with the vertices' displacement"}
    relates_samples = True
    needs = Signal.LOGITS | Signal.POOLED | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        staged = self.variant in STAGED
        self.pairs: Pairs = stage_pairs(setting, self.variant, "irg", "variant=semckd (no stages)") if staged else ()
        self.steps: Pairs = ()
        if staged:
            ours, theirs = both_shapes(setting, "irg")
            self.steps = tuple((i, j) for i, j in self.pairs if comparable(ours, i) and comparable(theirs, j))
        self.graph = self.staged_graph if staged else self.pooled_graph

    def pooled_graph(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """SemCKD's term."""
        return graph_loss(self.gather(student.pooled_BD), self.gather(teacher.pooled_BD))

    def staged_graph(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """The paper's term."""
        logits_BK = self.gather(student.logits_BK)
        rows = len(logits_BK)
        student_edges = self.stage_edges(student, [i for i, _ in self.pairs])
        teacher_edges = self.stage_edges(teacher, [j for _, j in self.pairs])
        graph = euclidean_loss(logits_BK, self.gather(teacher.logits_BK), rows)
        graph = graph + euclidean_loss(student_edges[-1], teacher_edges[-1], rows)
        moved = euclidean_loss(change(student_edges), change(teacher_edges), 1)
        for i, j in self.steps:
            moved = moved + euclidean_loss(self.displaced(student, i), self.displaced(teacher, j), 1)
        return graph + self.config.transform_weight * moved

    def stage_edges(self, output: ModelOutput, stages: list[int]) -> list[Tensor]:
        """Edges of these stages and of the pooled vectors, B x B each."""
        layers = [*(output.features[i].flatten(1) for i in stages), output.pooled_BD]
        return [edges(self.gather(layer_BN)) for layer_BN in layers]

    def displaced(self, output: ModelOutput, stage: int) -> Tensor:
        """The vertices' displacement from a stage's input to its output, [B]."""
        before_BC, after_BD = (self.gather(output.features[i].mean(dim=(2, 3))) for i in (stage - 1, stage))
        return displacement(before_BC, after_BD)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = label_terms(self, student, teacher, batch)
        return terms | {"irg": self.config.feat_weight * self.graph(student, teacher)}
