"""Lengths, directions and distances of rows whose gradients stay finite where the textbook forms have 0 / 0."""

import torch
from torch import Tensor


def length(x: Tensor, dim: int = -1) -> Tensor:
    """L2 norm along `dim`, which stays with size 1. The gradient of a zero row is 0."""
    square = x.square().sum(dim, keepdim=True)
    some = square > 0
    return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)


def unit(x: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    """x / ||x||, and 0 with gradient 0 where ||x|| <= eps.

    The framework's normalize divides such rows by eps instead: a gradient of 1e12 times what comes in.
    """
    norm = length(x, dim)
    some = norm > eps
    return torch.where(some, x / torch.where(some, norm, 1.0), 0.0)


def off_diagonal(x_BB: Tensor) -> Tensor:
    """x with zeros on the diagonal, and without gradient there."""
    return x_BB.masked_fill(torch.eye(len(x_BB), dtype=torch.bool, device=x_BB.device), 0.0)


def squared_distances(x_BD: Tensor, eps: float = 1e-12) -> Tensor:
    """||x_i - x_j||^2 as B x B, at least eps besides the diagonal, which is 0.

    By |x|^2 + |y|^2 - 2 xy as RKD's authors do; what rounding makes of equal rows is cut at eps, with gradient 0.
    """
    square_B = x_BD.square().sum(1)
    distance_BB = square_B[:, None] + square_B[None, :] - 2 * x_BD @ x_BD.T
    return off_diagonal(distance_BB.clamp_min(eps))


def cosines(x_BD: Tensor, eps: float) -> Tensor:
    """<x_i, x_j> / ((|x_i| + eps) (|x_j| + eps)) as B x B; the row and column of a zero row are 0."""
    norm_B1 = length(x_BD)
    some = norm_B1 > 0
    unit_BD = torch.where(some, x_BD / torch.where(some, norm_B1 + eps, 1.0), 0.0)
    return unit_BD @ unit_BD.T


def displacement(before_BC: Tensor, after_BD: Tensor) -> Tensor:
    """Squared way of each sample's vertex from one layer to another over the longest of the batch, [B].

    Of the wider layer, neighbouring channels are averaged.
    """
    width = min(before_BC.shape[1], after_BD.shape[1])
    before_BW, after_BW = (x.unflatten(1, (width, -1)).mean(dim=2) for x in (before_BC, after_BD))
    square_B = (after_BW - before_BW).square().sum(dim=1)
    return square_B / (square_B.max() + 1e-12)
