"""Learning rate as a pure function of the number of finished steps."""

import math
from collections.abc import Callable

from pipeline.config import OptimConfig

Rate = Callable[[OptimConfig, float], float]


def multistep(optim: OptimConfig, epochs: float) -> float:
    """lr * gamma^n, n = milestones before the present epoch, which counts from 1: epoch milestone + 1 is the first
    decayed one, as in RepDistiller, SimKD and mdistiller."""
    epoch = math.floor(epochs) + 1
    return optim.lr * optim.gamma ** sum(milestone < epoch for milestone in optim.milestones)


def cosine(optim: OptimConfig, epochs: float) -> float:
    """Half a cosine from lr (after the warm-up) to min_lr at optim.epochs. Loshchilov and Hutter 2017, eq. 5."""
    span = max(optim.epochs - optim.warmup_epochs, 1e-12)
    done = min(max((epochs - optim.warmup_epochs) / span, 0.0), 1.0)
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def linear(optim: OptimConfig, epochs: float) -> float:
    """A line from lr (after the warm-up) to min_lr at optim.epochs. With a warm-up: FFCV's cyclic rate."""
    span = max(optim.epochs - optim.warmup_epochs, 1e-12)
    done = min(max((epochs - optim.warmup_epochs) / span, 0.0), 1.0)
    return optim.lr + (optim.min_lr - optim.lr) * done


def constant(optim: OptimConfig, epochs: float) -> float:
    """lr throughout."""
    return optim.lr


RATES: dict[str, Rate] = {"multistep": multistep, "cosine": cosine, "linear": linear, "constant": constant}


def learning_rate(optim: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Rate of step number `step` (from 0). A linear warm-up rises to lr over optim.warmup_epochs.

    With warmup_start s, step k of W has s + (1 - s) k / W of lr (FFCV: s = 1e-4), without it (k + 1) / W.
    """
    warmup_steps = round(optim.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        start = optim.warmup_start
        share = (step + 1) / warmup_steps if start is None else start + (1 - start) * step / warmup_steps
        return optim.lr * share
    return RATES[optim.schedule](optim, step / steps_per_epoch)
