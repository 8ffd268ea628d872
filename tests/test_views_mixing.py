"""Mix parameters: Beta variates and boxes."""

import math

import numpy as np
import pytest

from pipeline import views

STEPS = np.arange(30000)


def largest_gap(a, b):
    grid = np.sort(np.concatenate([a, b]))
    below_a = np.searchsorted(np.sort(a), grid, side="right") / len(a)
    below_b = np.searchsorted(np.sort(b), grid, side="right") / len(b)
    return np.max(np.abs(below_a - below_b))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_lambdas_are_beta(alpha):
    n = len(STEPS)
    drawn = views.mix_lambdas(0, 3, STEPS, alpha)
    variance = 1 / (4 * (2 * alpha + 1))
    assert drawn.dtype == np.float64 and np.all((drawn >= 0) & (drawn <= 1))
    assert abs(drawn.mean() - 0.5) < 5 * math.sqrt(variance / n)
    assert abs(drawn.var() - variance) < 5 * variance / math.sqrt(n)
    assert largest_gap(drawn, np.random.default_rng(1).beta(alpha, alpha, n)) < 1.95 * math.sqrt(2 / n)


@pytest.mark.parametrize("alpha", [1e-3, 0.02, 50.0])
def test_lambdas_stay_numbers_at_the_ends(alpha):
    drawn = views.mix_lambdas(0, 0, STEPS[:2000], alpha)
    assert np.all(np.isfinite(drawn)) and np.all((drawn >= 0) & (drawn <= 1))
    assert abs(drawn.mean() - 0.5) < 0.06
    with pytest.raises(ValueError, match="positive"):
        views.mix_lambdas(0, 0, STEPS[:3], 0.0)


def test_a_lambda_does_not_depend_on_its_neighbours():
    together = views.mix_lambdas(5, 2, STEPS[:200], 0.2)
    for part in (slice(0, 1), slice(7, 8), slice(100, 117)):
        assert np.array_equal(views.mix_lambdas(5, 2, STEPS[part], 0.2), together[part])
    assert not np.array_equal(views.mix_lambdas(5, 3, STEPS[:200], 0.2), together)


def test_boxes_are_cutmix_boxes():
    height, width = 32, 48
    lam = views.mix_lambdas(0, 0, STEPS, 1.0)
    box = views.mix_boxes(0, 0, STEPS, lam, height, width)
    top, left, h, w = box.T
    assert np.all((top >= 0) & (left >= 0) & (h >= 0) & (w >= 0) & (top + h <= height) & (left + w <= width))
    side_h, side_w = (np.sqrt(1 - lam) * height).astype(int) // 2, (np.sqrt(1 - lam) * width).astype(int) // 2
    inner = (top > 0) & (top + h < height) & (left > 0) & (left + w < width)
    assert inner.sum() > 1000
    assert np.array_equal(h[inner], 2 * side_h[inner]) and np.array_equal(w[inner], 2 * side_w[inner])
    # The centre is uniform: with a box of (nearly) no size it is the corner.
    tiny = views.mix_boxes(0, 0, STEPS, np.full(len(STEPS), 1 - 1e-9), height, width)
    cell = np.bincount(tiny[:, 0] * width + tiny[:, 1], minlength=height * width)
    expected, freedom = len(STEPS) / (height * width), height * width - 1
    assert len(cell) == height * width
    assert abs(((cell - expected) ** 2 / expected).sum() - freedom) < 5 * math.sqrt(2 * freedom)
    assert np.all(views.mix_boxes(0, 0, STEPS[:50], np.ones(50), height, width)[:, 2:] == 0)


def test_cutout_squares_are_clipped_at_the_border():
    box = views.cutout_boxes(0, 0, STEPS[:4000], 32, 32, 8)
    top, left, h, w = box.T
    assert h.max() == w.max() == 8 and h.min() == w.min() == 4
    assert np.all((h == 8) | (top == 0) | (top + h == 32)) and np.all((w == 8) | (left == 0) | (left + w == 32))
    assert not np.array_equal(box, views.cutout_boxes(0, 1, STEPS[:4000], 32, 32, 8))
