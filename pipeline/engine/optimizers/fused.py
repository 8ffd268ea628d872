"""torch's fused SGD and AdamW: one kernel for all parameters, and an update that a device flag can skip."""

import torch
from torch.optim import SGD, AdamW, Optimizer

from pipeline.config import OptimConfig
from pipeline.engine.optimizers import OPTIMIZERS, Groups


@OPTIMIZERS.register("sgd")
def sgd(groups: Groups, optim: OptimConfig) -> Optimizer:
    """SGD with momentum. Buffers start as zeros, which gives the same first step as torch's own start."""
    optimizer = SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)
    if optim.momentum:
        # A skipped first step would leave buffers that nobody has written.
        for group in optimizer.param_groups:
            for p in group["params"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


@OPTIMIZERS.register("adamw")
def adamw(groups: Groups, optim: OptimConfig) -> Optimizer:
    """AdamW, decoupled weight decay."""
    return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
