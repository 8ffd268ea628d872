"""Function matching's recipe, values typed from big_vision's bit_i1k.py, and its update against a slow loop."""

import math

import pytest
import torch
from making import IMAGENET, cifar, make, weights
from torch import nn

from pipeline.builders import method as methods
from pipeline.contracts import InputError
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.schedule import learning_rate
from pipeline.engine.update import Updater


def test_imagenet() -> None:
    found = make(IMAGENET, "method=funmatch", "pair=r34_r18")
    optim, data = found.optim, found.data
    assert (found.recipe, weights(found, "T", "mixup_alpha", "kd_weight")) == ("funmatch", [1, 1, 1])
    assert (data.batch_size, optim.epochs, optim.lr, optim.schedule) == (4096, 1200, 0.03, "cosine")
    assert (optim.name, optim.betas, optim.eps, optim.clip_norm) == ("adamw", (0.9, 0.999), 1e-8, 1.0)
    assert (optim.weight_decay * optim.lr, optim.decay_norm_bias) == (pytest.approx(0.0003), False)
    assert (data.crop, data.scale, data.ratio, data.flip) == ("window", (0.05, 1.0), (0.75, 1.33), True)
    assert (data.image_size, data.resize) == (224, 256)
    rise = optim.warmup_epochs * 1_281_167 / 4096
    assert rise == pytest.approx(5000, rel=0.005) and (optim.warmup_start, optim.min_lr) == (0, 0)


def test_other_methods_and_sets() -> None:
    match = make(IMAGENET, "method=kd", "recipe=funmatch")
    assert (weights(match, "T", "ce_weight", "kd_weight"), match.optim.name) == ([1, 0, 1], "adamw")
    small, own = cifar("method=funmatch"), cifar("method=vanilla")
    assert (small.recipe, small.optim, small.data) == ("funmatch", own.optim, own.data)


@pytest.mark.parametrize("method", ["kd+dot", "dot+kd"])
def test_dot_keeps_its_update_rule_or_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"dot is an update rule, and optim\.name=adamw"):
        methods.method_kinds(make(IMAGENET, f"method={method}", "recipe=funmatch"))
    assert [*methods.method_kinds(make(IMAGENET, f"method={method}"))] == ["kd"]
    with pytest.raises(InputError, match=r"optim\.name=sgd"):
        methods.method_kinds(cifar(f"method={method}", "optim.name=sgd"))


class Slow:
    """Clip, Adam, times lr, plus decay of the kernels, times the schedule: a chain as big_vision has it."""

    def __init__(self, shares: list[float], lr: float, decay: float) -> None:
        self.shares, self.lr, self.decay = shares, lr, decay
        self.moments: dict[nn.Parameter, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, model: nn.Module, step: int) -> None:
        parameters = list(model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        for p, g in zip(parameters, gradients, strict=True):
            clipped = g / max(1.0, norm)
            first, second = self.moments.get(p, (torch.zeros_like(p), torch.zeros_like(p)))
            first, second = 0.9 * first + 0.1 * clipped, 0.999 * second + 0.001 * clipped**2
            self.moments[p] = first, second
            mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            change = self.lr * mean / (square.sqrt() + 1e-8)
            if p.ndim > 1:
                change = change + self.decay * p.detach()
            p.data -= self.shares[step] * change


def test_the_update_is_theirs() -> None:
    optim = make(IMAGENET, "method=funmatch").optim.model_copy(update={"epochs": 4, "warmup_epochs": 1.0})
    shares = [0, 1 / 2] + [0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]  # a rise over 2 of 8 steps
    slow, nets = Slow(shares, 0.03, 0.0003), []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double())
    ours, theirs = nets
    update = Updater(ours, ours, build_optimizer(ours, optim), optim, fp16=False)
    for step in range(8):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        scale = (40.0, 0.1)[step % 2]  # clipped, not clipped
        update.set_lr(learning_rate(optim, step, 2))
        loss = ours(x).square().mean() * scale
        update.backward(loss)
        update.update(loss)
        theirs.zero_grad()
        (theirs(x).square().mean() * scale).backward()
        slow.update(theirs, step)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)  # torch divides by the norm + 1e-6
