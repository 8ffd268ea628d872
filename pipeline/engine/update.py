"""Backward, unscale, clip, update, average: everything between a loss and new weights."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.config import OptimConfig
from pipeline.contracts import InputError
from pipeline.engine.ema import Ema

UNCAPTURED = "This instance was constructed with capturable=True"  # torch's warning of the plain steps before a capture


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


class Updater:
    """Owns the optimiser, the fp16 scaler and the averaged weights, of student and predictor (Distiller.predictor).

    A step with a non-finite gradient or loss is skipped on the device: fused optimisers read `found_inf` themselves, so
    that nothing is read on the host. (With fp16 a skipped step is the scaler's ordinary business.)
    mean_over_ranks: reduces gradients, in place, where the update rule keeps two kinds apart (DOT).
    """

    def __init__(
        self,
        module: nn.Module,
        student: nn.Module,
        optimizer: Optimizer,
        optim: OptimConfig,
        *,
        fp16: bool,
        predictor: nn.Module | None = None,
        rate_on_device: bool = False,
        mean_over_ranks: Callable[[list[Tensor]], None] = lambda gradients: None,
    ) -> None:
        self.mean_over_ranks = mean_over_ranks
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = optimizer
        self.clip_norm = optim.clip_norm
        averaged = [Ema(net, optim.ema_decay) if net and optim.ema_decay else None for net in (student, predictor)]
        self.ema, self.predictor_ema = averaged
        device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        self.scaler.scale(torch.zeros((), device=device))  # it makes its tensors at its first use
        self.kinds: list[list[Tensor | None]] = [[None] * len(self.parameters) for _ in range(2)]
        if self.by_kind and (fp16 or optim.clip_norm):
            raise InputError("this update rule keeps two gradients apart: use runtime.amp=off or bf16, clip_norm=0")
        self.skips_on_device = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        # A graph would keep a rate that is a Python number. CUDA's fused kernels read float32 rates only.
        self.rate: Tensor | None = None
        if rate_on_device:
            kind = torch.float64 if device.type == "cpu" else torch.float32
            self.rate = torch.zeros((), dtype=kind, device=device)
            warnings.filterwarnings("ignore", UNCAPTURED)

    def set_lr(self, lr: float) -> None:
        """The rate of the next update, for all parameters."""
        if self.rate is not None:
            self.rate.fill_(lr)
        captured = self.rate is not None and self.rate.is_cuda
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self.rate is None else self.rate
            if "capturable" in group:  # AdamW refuses a capture without it
                group["capturable"] = captured

    @property
    def by_kind(self) -> bool:
        """Whether the optimiser wants the gradients of task and distillation apart (DOT)."""
        return hasattr(self.optimizer, "give")

    def backward(self, loss: Tensor, task: Tensor | None = None, share: float = 1.0) -> None:
        """Adds the gradient of share * loss; under DDP the last backward of a step reduces it over the ranks.

        task: the cross-entropy's part of the loss, for update rules that tell kinds apart. share: BatchInfo.share.
        """
        loss = loss * share
        if self.by_kind and task is not None:
            task = task * share
            self._add_kinds(task, loss - task)
        else:
            self.scaler.scale(loss).backward()

    def _add_kinds(self, *losses: Tensor) -> None:
        for kind, loss in enumerate(losses):
            if loss.requires_grad:
                found = torch.autograd.grad(loss, self.parameters, retain_graph=kind == 0, allow_unused=True)
                self.kinds[kind] = [_sum(a, b) for a, b in zip(self.kinds[kind], found, strict=True)]

    def _give_kinds(self) -> None:
        """Both kinds over the ranks, and handed to the optimiser; the gradients' sum is what is checked and clipped."""
        for kind in self.kinds:
            self.mean_over_ranks([g for g in kind if g is not None])
        for p, task, distill in zip(self.parameters, *self.kinds, strict=True):
            p.grad = _sum(task, distill)
        give: Callable[..., None] = self.optimizer.give  # type: ignore[attr-defined]
        give(*self.kinds)
        self.kinds = [[None] * len(self.parameters) for _ in range(2)]

    def update(self, loss: Tensor) -> Tensor:
        """One update from the gathered gradients. Returns a 0-d bool tensor: the loss or (without a scaler) a gradient
        was not finite."""
        if self.by_kind:
            self._give_kinds()
        bad_loss = ~torch.isfinite(loss.detach())
        if self.scaler.is_enabled():
            self._scaled_update()
            bad = bad_loss
        else:
            bad = self._plain_update(bad_loss)
        self.optimizer.zero_grad(set_to_none=True)
        for average in (self.ema, self.predictor_ema):
            if average is not None:
                average.update()
        return bad

    def _scaled_update(self) -> None:
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _plain_update(self, bad_loss: Tensor) -> Tensor:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        # The largest entry, not the L2 norm, which overflows on large finite gradients.
        bad = bad_loss | ~torch.isfinite(torch.nn.utils.get_total_norm(grads, norm_type=float("inf")))
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        if self.skips_on_device:
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not bad.item():
            self.optimizer.step()
        return bad

    def forget(self) -> None:
        """Drops gradients, and how far a step had come that was broken off."""
        self.optimizer.zero_grad(set_to_none=True)
        self.kinds = [[None] * len(self.parameters) for _ in range(2)]
        if self.scaler.is_enabled():
            self.scaler._per_optimizer_states.clear()  # else it says that step() has been called already

    def tensors(self) -> list[Tensor]:
        """All that an update changes besides the parameters."""
        held = [value for state in self.optimizer.state.values() for value in state.values()]
        held += [getattr(self.scaler, name, None) for name in ("_scale", "_growth_tracker")]  # none while it is off
        averages = [tensor for ema in (self.ema, self.predictor_ema) if ema for tensor in ema.state_dict().values()]
        return [tensor for tensor in [*held, *averages] if isinstance(tensor, Tensor)]

    def state_dict(self) -> dict[str, object]:
        """Optimiser, scaler and averaged weights."""
        optimizer = self.optimizer.state_dict()
        groups = [group | {"lr": float(group["lr"])} for group in optimizer["param_groups"]]
        return {
            "optimizer": optimizer | {"param_groups": groups},
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "predictor_ema": self.predictor_ema.state_dict() if self.predictor_ema is not None else {},
        }

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """What `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])  # type: ignore[arg-type]
        if self.predictor_ema is not None:
            self.predictor_ema.load_state_dict(state["predictor_ema"])  # type: ignore[arg-type]
