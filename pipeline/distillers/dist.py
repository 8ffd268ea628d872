"""DIST: distillation by correlation. Huang, You, Wang, Qian and Xu 2022 (arXiv 2205.10536), L_inter and L_intra."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, View
from pipeline.distillers import DISTILLERS


def correlation(x_RC: Tensor, y_RC: Tensor) -> Tensor:
    """R: Pearson correlation of equal rows of x and y (1e-8 added to the product of the norms, as in the code).

    0 without gradient where a row has no spread beyond rounding: the formula would divide noise by 1e-8. The gradient
    leaves the means out: with respect to the centred rows it sums to 0 over each row as it is, so that subtracting its
    mean, another pass over both matrices, changes nothing.
    """
    centred = [x - x.detach().mean(dim=1, keepdim=True) for x in (x_RC, y_RC)]
    norms = [torch.linalg.vector_norm(x, dim=1) for x in centred]
    rounding = 8 * torch.finfo(x_RC.dtype).eps
    pairs = zip(norms, (x_RC, y_RC), strict=True)
    flat_R = torch.stack([norm <= rounding * torch.linalg.vector_norm(x, dim=1) for norm, x in pairs]).any(dim=0)
    product_R = (centred[0] * centred[1]).sum(dim=1)
    return (product_R / (norms[0] * norms[1] + 1e-8)).masked_fill(flat_R, 0.0)


def inter_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """1 - mean correlation of each sample's probabilities, a scalar."""
    return 1 - correlation(student_BK, teacher_BK).mean()


def intra_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """1 - mean correlation of each class's probabilities over the samples, a scalar."""
    return inter_loss(student_BK.T, teacher_BK.T)


def rows_of_pixels(logits_BKHW: Tensor) -> Tensor:
    """(B H W) x K: each pixel of a segmentation as a sample."""
    return logits_BKHW.movedim(1, -1).flatten(0, -2)


@DISTILLERS.register("dist")
class DIST(Distiller):
    """ce_weight * cross-entropy + kd_weight * T^2 * (beta * inter + gamma * intra), probabilities at temperature T.

    The authors' recipes weight both terms with 2; the paper's first experiments have T = 1, those on CIFAR-100 T = 4.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature; beta, gamma: weights of the two relations; ce_weight, kd_weight: of the two losses."""

        T: Annotated[float, Field(gt=0)] = 1.0
        beta: Annotated[float, Field(ge=0)] = 1.0
        gamma: Annotated[float, Field(ge=0)] = 1.0
        ce_weight: Annotated[float, Field(ge=0)] = 1.0
        kd_weight: Annotated[float, Field(ge=0)] = 2.0

    relates_samples = True
    needs = Signal.LOGITS

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        student_BK, teacher_BK = (F.softmax(x.logits_BK / c.T, dim=1) for x in (student, teacher))
        weight = c.kd_weight * c.T**2
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "inter": weight * c.beta * inter_loss(student_BK, teacher_BK),
            "intra": weight * c.gamma * intra_loss(self.gather(student_BK), self.gather(teacher_BK)),
        }
