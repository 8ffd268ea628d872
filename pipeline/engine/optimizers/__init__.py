"""Optimisers by name, one family per file."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pipeline.config import OptimConfig
from pipeline.registry import Registry

Groups = list[dict[str, Any]]
OPTIMIZERS: Registry[Callable[[Groups, OptimConfig], Optimizer]] = Registry("optimiser", __name__)


def parameter_groups(module: nn.Module, optim: OptimConfig) -> Groups:
    """Trainable parameters; with decay_norm_bias=false, vectors (norms, biases) form a group without decay."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    if optim.decay_norm_bias:
        return [{"params": trainable, "weight_decay": optim.weight_decay}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(module: nn.Module, optim: OptimConfig) -> Optimizer:
    """The optimiser that `optim.name` names, over `module`'s trainable parameters."""
    return OPTIMIZERS.get(optim.name)(parameter_groups(module, optim), optim)
