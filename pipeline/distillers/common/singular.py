"""Singular vectors of feature maps, with a gradient that stays finite."""

import torch
from torch import Tensor


def right_vectors(x_BMN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """First k right singular vectors (B N k) and all singular values (B r); the vectors carry gradient.

    Their gradient is that of the eigenvectors of x^T x to first order, with terms of equal singular values left out:
    the framework's own is NaN for a map of zeros and for any two values that agree.
    """
    with torch.no_grad():
        _, value_BR, vector_BRN = torch.linalg.svd(x_BMN, full_matrices=False)
        largest_B11 = value_BR[:, :1, None]
        scale_B11 = torch.where(largest_B11 > 1e-30, largest_B11, 1.0)
    # The vectors do not depend on the map's scale: at 1 the squares of small maps do not underflow.
    x_BMN = x_BMN / scale_B11
    square_BR = (value_BR / scale_B11[:, 0]).square()
    all_BNR = vector_BRN.transpose(1, 2)
    first_BNK = all_BNR[:, :, :k]
    moved_BNK = x_BMN.transpose(1, 2) @ (x_BMN @ first_BNK)
    moved_BNK = moved_BNK - moved_BNK.detach()
    moved_BRK = all_BNR.transpose(1, 2) @ moved_BNK
    inside_BNK = all_BNR @ (moved_BRK * inverse_gap(square_BR[:, None, :k] - square_BR[:, :, None]))
    outside_BNK = (moved_BNK - all_BNR @ moved_BRK) * inverse_gap(square_BR[:, None, :k])
    return first_BNK + inside_BNK + outside_BNK, value_BR


def inverse_gap(gap: Tensor) -> Tensor:
    """1 / gap of squares of which the largest is 1, and 0 for gaps that are rounding."""
    some = gap.abs() > 10 * torch.finfo(gap.dtype).eps
    return torch.where(some, 1 / torch.where(some, gap, 1.0), 0.0)


def upright(vector_BNK: Tensor) -> Tensor:
    """Each vector turned so that its entries sum to at least 0."""
    total_B1K = vector_BNK.sum(1, keepdim=True)
    return torch.where(total_B1K < 0, -vector_BNK, vector_BNK)


def align(student_BNS: Tensor, teacher_BNK: Tensor) -> Tensor:
    """For each teacher vector the student vector of largest |cosine|, with the cosine's sign; B N k."""
    cosine_BKS = teacher_BNK.transpose(1, 2) @ student_BNS
    largest_BK1 = cosine_BKS.abs().argmax(2, keepdim=True)
    sign_BK1 = cosine_BKS.gather(2, largest_BK1).sign().detach()
    chosen_BKN = student_BNS.transpose(1, 2).gather(1, largest_BK1.expand(-1, -1, student_BNS.shape[1]))
    return (chosen_BKN * sign_BK1).transpose(1, 2)
