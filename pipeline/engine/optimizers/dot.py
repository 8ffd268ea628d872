"""DOT: SGD with one momentum buffer per kind of loss. Zhao et al. 2023 (ICCV, arXiv 2307.08436), algorithm 1."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipeline.config import OptimConfig
from pipeline.engine.optimizers import OPTIMIZERS, Groups


def dot_update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    *,
    lr: float,
    momentum: float,
    keep: Tensor | None = None,
) -> None:
    """In place: buffer <- momentum * buffer + gradient; parameter <- parameter - lr * buffer. No Nesterov, no damping.

    keep: 0-d, 1 or 0; with 0 nothing changes, whatever the gradients hold (NaN too), and the host reads nothing.
    """
    if not parameters:
        return
    if keep is None:
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(parameters, buffers, alpha=-lr)
        return
    torch._foreach_mul_(buffers, momentum * keep + (1 - keep))
    torch._foreach_add_(buffers, [torch.where(keep > 0, g, torch.zeros_like(g)) for g in gradients])
    torch._foreach_sub_(parameters, torch._foreach_mul(buffers, lr * keep))


class DOT(Optimizer):
    """Momentum - delta for the task's gradients, momentum + delta for the distillation's; plain momentum for what has
    only one of them.

    The caller gives the gradients of either kind with `give`, then calls `step`; p.grad is not read. Weight decay goes
    with the task's gradient; a parameter without one (a method's own) decays from its second step on, as in the
    official code. found_inf: as of torch's fused optimisers, a 0-d tensor that makes `step` do nothing where it is 1.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        self.task: dict[Tensor, Tensor] = {}
        self.distill: dict[Tensor, Tensor] = {}
        self.found_inf: Tensor | None = None
        self.grad_scale: Tensor | None = None

    def give(self, task: Sequence[Tensor | None], distill: Sequence[Tensor | None]) -> None:
        """Gradients of the next step, in the order of the groups' parameters; None where a loss does not reach."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.task = {p: g for p, g in zip(parameters, task, strict=True) if g is not None}
        self.distill = {p: g for p, g in zip(parameters, distill, strict=True) if g is not None}

    def _buffers(self, parameters: Sequence[Tensor], name: str) -> list[Tensor]:
        """Zeros give the same first step as starting from the gradient."""
        for p in parameters:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in parameters]

    def _decays(self, parameters: Sequence[Tensor], weight_decay: float, keep: Tensor | None) -> list[Tensor]:
        """Decay terms of parameters with a distillation gradient alone: 0 in their first step."""
        found = []
        for p in parameters:
            started = self.state[p].setdefault("started", p.new_zeros(()))
            found.append(p * (weight_decay * started))
            started.fill_(1) if keep is None else torch.maximum(started, keep.to(started), out=started)
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the given gradients, which it then forgets."""
        assert closure is None, "DOT takes its gradients from `give`"
        # float64: momentum times keep then rounds as the plain number does.
        keep = None if self.found_inf is None else 1 - self.found_inf.double()
        for group in self.param_groups:
            self._step_group(group, keep)
        self.task, self.distill = {}, {}

    def _step_group(self, group: dict[str, Any], keep: Tensor | None) -> None:
        lr, momentum, delta, decay = (group[name] for name in ("lr", "momentum", "delta", "weight_decay"))
        both = [p for p in group["params"] if p in self.task and p in self.distill]
        task = [p for p in group["params"] if p in self.task and p not in self.distill]
        distill = [p for p in group["params"] if p not in self.task and p in self.distill]
        by_distill = [self.distill[p] for p in both]
        for parameters, beta in ((both, momentum - delta), (task, momentum)):
            gradients = [self.task[p].add(p, alpha=decay) for p in parameters]
            buffers = self._buffers(parameters, "momentum_buffer")
            dot_update(parameters, gradients, buffers, lr=lr, momentum=beta, keep=keep)
        buffers = self._buffers(both, "momentum_kd_buffer")
        dot_update(both, by_distill, buffers, lr=lr, momentum=momentum + delta, keep=keep)
        decays = self._decays(distill, decay, keep)
        gradients = [self.distill[p] + term for p, term in zip(distill, decays, strict=True)]
        buffers = self._buffers(distill, "momentum_kd_buffer")
        dot_update(distill, gradients, buffers, lr=lr, momentum=momentum, keep=keep)


@OPTIMIZERS.register("dot")
def dot(groups: Groups, optim: OptimConfig) -> Optimizer:
    """DOT with optim.momentum -+ optim.dot_delta."""
    return DOT(groups, lr=optim.lr, momentum=optim.momentum, delta=optim.dot_delta)
