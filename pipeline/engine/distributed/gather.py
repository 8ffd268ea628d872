"""The global batch on every rank, with gradient: for methods that relate the samples of a batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.contracts import InputError
from pipeline.engine.distributed.parallel import World
from pipeline.views import rank_slice


class _Gather(torch.autograd.Function):
    """Forward: rows of all ranks in order. Backward: the ranks' gradients added up, each rank keeps its own rows.

    Every rank computes the loss of the whole batch and weights it with its share R B_r / B, DDP takes the mean over
    ranks: the shares add up to R, so that a parameter gets exactly the gradient of the one loss.
    """

    @staticmethod
    def forward(ctx: Any, x_B: Tensor, spans: list[tuple[int, int]], rank: int, group: Any) -> Tensor:
        ctx.span, ctx.group = spans[rank], group
        longest = max(stop - start for start, stop in spans)
        padded = x_B.new_zeros((longest, *x_B.shape[1:]))
        padded[: len(x_B)] = x_B
        found = [torch.empty_like(padded) for _ in spans]
        dist.all_gather(found, padded, group=group)
        return torch.cat([part[: stop - start] for part, (start, stop) in zip(found, spans, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total, group=ctx.group)
        start, stop = ctx.span
        return total[start:stop], None, None, None


def mean_over_ranks(world: World, gradients: list[Tensor]) -> None:
    """Replaces each gradient by its mean over the ranks: one message for all of them."""
    if world.ranks == 1 or not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= world.ranks
    pieces = flat.split([g.numel() for g in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))


class GlobalRows:
    """Gives x_B of the whole global batch, in its order; x_B itself on one rank or with runtime.gather=false.

    rows: of the present global batch (StepAt.rows).
    """

    def __init__(self, world: World, *, enabled: bool = True, slices: int = 1) -> None:
        self.world = world
        self.active = enabled and world.ranks > 1
        self.slices = slices
        self.rows = 0

    def __call__(self, x_B: Tensor) -> Tensor:
        """Raises InputError with optim.accumulate > 1: a slice does not know the rest of its batch."""
        if self.slices > 1:
            raise InputError("this method relates all samples of a batch: use optim.accumulate=1")
        if not self.active:
            return x_B
        spans = [rank_slice(self.rows, rank, self.world.ranks) for rank in range(self.world.ranks)]
        gathered: Tensor = _Gather.apply(x_B.contiguous(), spans, self.world.rank, self.world.rows)
        return gathered
