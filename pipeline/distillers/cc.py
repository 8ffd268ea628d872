"""Correlation congruence. Peng et al. 2019 (arXiv 1904.01802), equations 5 to 9."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.relations import length, unit
from pipeline.distillers.common.stages import both_shapes
from pipeline.distillers.common.terms import LabelWeights, label_terms

GAMMA, ORDER = 0.4, 2  # of the paper's kernel


def neighbour_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """mean over b < B of <D_b, D_b+1> with D = |student - teacher|, a scalar; 0 for one sample."""
    gap_BD = (student_BD - teacher_BD).abs()
    return (gap_BD[:-1] * gap_BD[1:]).sum() / max(len(gap_BD) - 1, 1)


def series(product_BB: Tensor, gamma: float = GAMMA, order: int = ORDER) -> Tensor:
    """Taylor series of the Gaussian RBF: sum_p exp(-2g) (2g)^p / p! <x_i, x_j>^p, B x B (eq. 9)."""
    factors = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    return torch.stack([factor * product_BB**p for p, factor in enumerate(factors)]).sum(0)


def kernel(x_BD: Tensor) -> Tensor:
    """The series of unit vectors, for which it is an approximation, B x B."""
    unit_BD = unit(x_BD)
    return series(unit_BD @ unit_BD.T)


def kernel_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """||K_t - K_s||_F^2 / B^2, a scalar (eq. 7). The widths may differ."""
    return (kernel(student_BD) - kernel(teacher_BD)).square().mean()


def norm_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """||K_t - K_s||_F / B^2 with the series of the vectors as they are, a scalar: torchdistill's form."""
    gap_BB = series(student_BD @ student_BD.T) - series(teacher_BD @ teacher_BD.T)
    return length(gap_BB.flatten()).squeeze() / gap_BB.numel()


@DISTILLERS.register("cc", "correlation")
class CC(Distiller):
    """ce_weight * cross-entropy + feat_weight * correlation loss of the pooled vectors (+ KD).

    RepDistiller, the source of the published tables and the default, has no kernel: it multiplies the differences of
    neighbours in the batch, of two learned embeddings, the teacher's too (both can shrink to a point). `paper`
    compares the kernel matrices of the pooled vectors; they need no embedding, so there is none to collapse.
    torchdistill has the kernel of both embeddings, not of unit length, and a norm in place of its square.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """embed_dim: width of the embeddings; feat_weight: of the correlation loss."""

        embed_dim: Annotated[int, Field(ge=1, le=8192)] = 128
        feat_weight: Annotated[float, Field(ge=0)] = 0.02

    variants: ClassVar[Mapping[str, str]] = {
        "repdistiller": "products of neighbours' differences, both embeddings trained",
        "paper": "Gaussian kernel matrices (Taylor series, gamma .4, order 2) of the pooled vectors",
        "torchdistill": "norm of the difference of those matrices of both embeddings, which are trained",
    }
    relates_samples = True
    needs = Signal.LOGITS | Signal.POOLED

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.embed_student: nn.Module = nn.Identity()
        self.embed_teacher: nn.Module = nn.Identity()
        forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"paper": kernel_loss, "torchdistill": norm_loss}
        self.loss = forms.get(self.variant, neighbour_loss)
        if self.loss is not kernel_loss:
            student, teacher = both_shapes(setting, "cc")
            self.embed_student = nn.Linear(student.pooled, config.embed_dim)
            self.embed_teacher = nn.Linear(teacher.pooled, config.embed_dim)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        student_BD = self.gather(self.embed_student(student.pooled_BD))
        teacher_BD = self.gather(self.embed_teacher(teacher.pooled_BD))
        terms = label_terms(self, student, teacher, batch)
        return terms | {"cc": self.config.feat_weight * self.loss(student_BD, teacher_BD)}
