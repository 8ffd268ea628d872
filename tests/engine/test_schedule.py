"""Rates against what the recipes say, epoch by epoch."""

import itertools
import math

import numpy as np
import pytest

from pipeline.config import OptimConfig
from pipeline.engine.schedule import learning_rate

STEPS = 782


def test_first_decayed_epoch_is_milestone_plus_one() -> None:
    optim = OptimConfig(lr=0.05, milestones=(150, 180, 210))
    for epoch in range(1, 241):
        expected = 0.05 * 0.1 ** ((epoch > 150) + (epoch > 180) + (epoch > 210))
        for step in (0, 1, STEPS - 1):
            assert learning_rate(optim, (epoch - 1) * STEPS + step, STEPS) == pytest.approx(expected, rel=1e-15)


def test_cosine_goes_from_lr_to_min_lr() -> None:
    optim = OptimConfig(lr=0.4, schedule="cosine", epochs=10, min_lr=0.1)
    rates = [learning_rate(optim, step, 5) for step in range(51)]
    assert rates[0] == 0.4 and rates[25] == pytest.approx(0.25) and rates[50] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert rates[10] == pytest.approx(0.1 + 0.15 * (1 + math.cos(math.pi * 0.2)))


def test_line_goes_from_lr_to_min_lr() -> None:
    optim = OptimConfig(lr=0.4, schedule="linear", epochs=10, min_lr=0.1)
    assert [learning_rate(optim, step, 5) for step in range(51)] == [
        pytest.approx(0.4 - 0.3 * step / 50) for step in range(51)
    ]


@pytest.mark.parametrize("epochs", [16, 88])
def test_line_after_a_warm_up_is_ffcv_imagenets(epochs: int) -> None:
    """Its rates: of each epoch between those of its ends, which lie on the line through three points."""
    optim = OptimConfig(lr=1.7, schedule="linear", epochs=epochs, warmup_epochs=2, warmup_start=1e-4)
    ends = np.interp(np.arange(epochs + 1), [0, 2, epochs], [1e-4 * 1.7, 1.7, 0])
    for epoch in range(epochs):
        wanted = np.interp(np.arange(STEPS), [0, STEPS], ends[epoch : epoch + 2])
        found = [learning_rate(optim, epoch * STEPS + step, STEPS) for step in range(STEPS)]
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("schedule", ["multistep", "cosine", "linear", "constant"])
def test_warm_up_is_linear_and_ends_at_lr(schedule: str) -> None:
    optim = OptimConfig(lr=1.0, schedule=schedule, warmup_epochs=2, epochs=10, milestones=(5,))
    rates = [learning_rate(optim, step, 4) for step in range(9)]
    assert rates[:8] == [pytest.approx((k + 1) / 8) for k in range(8)]
    assert rates[8] == pytest.approx(1.0)
