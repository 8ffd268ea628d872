"""Correlation of rows by the ranks of their entries: hard ranks, which have no gradient, and soft ones, which have."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.distillers.common.relations import unit

EPS = 1e-8  # of R2KD's official code, added to the product of norms
LARGEST = 2**24  # comparisons at once: 64 MB in float32


def cosine(a_RD: Tensor, b_RD: Tensor) -> Tensor:
    """Cosines of the rows, [R]; 0 with gradient 0 where both rows are 0."""
    norms_R = torch.linalg.vector_norm(a_RD, dim=1) * torch.linalg.vector_norm(b_RD, dim=1)
    return (a_RD * b_RD).sum(dim=1) / (norms_R + EPS)


def spearman(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Rank correlation of each sample's classes, float32 [B], without gradient: ranks have none."""
    classes = student_BK.shape[1]

    def centred_ranks(logits_BK: Tensor) -> Tensor:
        # float32 as in the official code, whose rounding the reported loss then shares; whole numbers below 2^24.
        rank_BK = (logits_BK.argsort(dim=1).argsort(dim=1) + 1).float() / (classes * (classes + 1) / 2)
        return rank_BK - rank_BK.mean(dim=1, keepdim=True)

    with torch.no_grad():
        return cosine(centred_ranks(student_BK), centred_ranks(teacher_BK))


class _SoftRanks(torch.autograd.Function):
    """The comparisons of a chunk of rows are made, summed and dropped, and made anew for the gradient."""

    @staticmethod
    def forward(ctx: Any, z_BK: Tensor, T: float) -> Tensor:
        ctx.save_for_backward(z_BK)
        ctx.T = T
        return torch.cat([_won(z_CK, T).sum(dim=2) / 2 for z_CK in _chunks(z_BK)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (z_BK,) = ctx.saved_tensors
        found = []
        for z_CK, gradient_CK in zip(_chunks(z_BK), _chunks(gradients[0]), strict=True):
            slope_CKK = (1 - _won(z_CK, ctx.T).square()) / (4 * ctx.T)
            others_CK = (slope_CKK @ gradient_CK[:, :, None]).squeeze(2)
            found.append(slope_CKK.sum(dim=2) * gradient_CK - others_CK)
        return torch.cat(found), None


def _chunks(x_BK: Tensor) -> Sequence[Tensor]:
    return x_BK.split(max(1, LARGEST // x_BK.shape[1] ** 2))


def _won(z_CK: Tensor, T: float) -> Tensor:
    """C x K x K in (-1, 1): how far entry i lies above entry j, 2 * sigmoid((z_i - z_j) / T) - 1."""
    return torch.tanh((z_CK[:, :, None] - z_CK[:, None, :]) / (2 * T))


def soft_ranks(z_BK: Tensor, T: float) -> Tensor:
    """sum_j sigmoid((z_i - z_j) / T) - K / 2, B x K: ranks less their mean, hard for T -> 0; all 0 for equal entries.

    K^2 comparisons of each row, never more than LARGEST (or one row's) at once. T: in the unit of z.
    """
    ranks_BK: Tensor = _SoftRanks.apply(z_BK, T)
    return ranks_BK


def soft_spearman(student_BK: Tensor, teacher_BK: Tensor, T: float) -> Tensor:
    """Correlation of the soft ranks of each sample's classes, [B], differentiable; 1 for equal logits, whatever T."""
    return (unit(soft_ranks(student_BK, T)) * unit(soft_ranks(teacher_BK, T))).sum(dim=1)
