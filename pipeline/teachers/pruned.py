"""A teacher averaged with a pruned copy of itself (R2KD, Kim et al. 2023, arXiv 2311.13934, section III-C)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, ModelOutput, Signal
from pipeline.teachers import TEACHERS


@torch.no_grad()
def prune_l1(network: nn.Module, rate: float) -> nn.Module:
    """A copy in which the round(rate * n) weights of least magnitude of each Conv2d and Linear layer are 0.

    Layer by layer (n weights each), biases and norms untouched, for good: there is no mask. rate: 0..1.
    """
    pruned = deepcopy(network)
    for module in pruned.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            flat = module.weight.detach().flatten()
            smallest = flat.abs().topk(round(rate * flat.numel()), largest=False).indices
            module.weight.copy_(flat.index_fill(0, smallest, 0).view_as(module.weight))
    return pruned


@TEACHERS.register("pruned")
class PrunedTeacher:
    """weight * logits + (1 - weight) * logits of the pruned copy; pooled vector and maps are the unpruned network's.

    Arguments as of the live source. rate: share of each layer that is pruned. batch_statistics: the pruned copy
    normalises with those of the batch, as in the official code, which leaves it in training mode: its outputs then
    depend on the batch and on the number of ranks. The default is the paper's meaning, a teacher in eval mode.
    """

    section = "prune"  # of the teacher's keys
    recorded = compares = False
    views: int | None = None
    provides = Signal.LOGITS | Signal.POOLED | Signal.FEATURES | Signal.WEIGHTS

    def __init__(
        self,
        make_network: Callable[[], nn.Module],
        *,
        needs: Signal,
        autocast: Callable[[], AbstractContextManager[object]],
        prepare: Callable[[Tensor], Tensor] = lambda image_BCHW: image_BCHW,
        ready: Callable[[nn.Module], nn.Module] = lambda network: network,
        rate: float = 0.1,
        weight: float = 0.7,
        batch_statistics: bool = False,
    ) -> None:
        self.network = make_network().eval().requires_grad_(False)
        self.running = ready(self.network)
        pruned = prune_l1(self.network, rate)
        # Folding is for fixed statistics.
        self.pruned = pruned.train() if batch_statistics else ready(pruned)
        self.features = Signal.FEATURES in needs
        self.autocast = autocast
        self.prepare = prepare
        self.weight = weight

    def modules(self) -> tuple[nn.Module, ...]:
        """The network, what is run instead of it, and the pruned copy."""
        return (self.network, self.running, self.pruned)

    def __call__(self, batch: Batch) -> ModelOutput:
        with torch.no_grad(), self.autocast():
            image_BCHW = self.prepare(batch.image_BCHW)
            output: ModelOutput = self.running(image_BCHW, features=self.features)
            pruned_BK = self.pruned(image_BCHW).logits_BK
        output = output.float()
        mean_BK = torch.lerp(pruned_BK.to(output.logits_BK.dtype), output.logits_BK, self.weight)
        return output._replace(logits_BK=mean_BK)
