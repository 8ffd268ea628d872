"""NVIDIA apex's optimisers that torch has no counterpart of, where apex is installed."""

import importlib
from typing import Any

from torch.optim import SGD, Optimizer

from pipeline.config import OptimConfig
from pipeline.contracts import InputError
from pipeline.engine.optimizers import OPTIMIZERS, Groups


def _from_apex(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{module}.{name} is not installed ({error}): it comes with NVIDIA apex, built from source with its CUDA "
            "extensions; the package called apex on the package index is another project"
        ) from None


@OPTIMIZERS.register("apex_lamb")
def lamb(groups: Groups, optim: OptimConfig) -> Optimizer:
    """FusedLAMB (You et al. 2020)."""
    return _from_apex("apex.optimizers", "FusedLAMB")(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)


@OPTIMIZERS.register("apex_novograd")
def novograd(groups: Groups, optim: OptimConfig) -> Optimizer:
    """FusedNovoGrad (Ginsburg et al. 2019)."""
    return _from_apex("apex.optimizers", "FusedNovoGrad")(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)


@OPTIMIZERS.register("apex_larc")
def larc(groups: Groups, optim: OptimConfig) -> Optimizer:
    """SGD under LARC (You et al. 2017)."""
    inner = SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov)
    return _from_apex("apex.parallel.LARC", "LARC")(inner)
