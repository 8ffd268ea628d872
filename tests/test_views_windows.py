"""Crops, flips and RandomResizedCrop windows: distributions and validity."""

import math

import numpy as np
import pytest
import torch

from pipeline import views

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def chi_square(count, expected):
    return float(((count - expected) ** 2 / expected).sum())


def largest_gap(a, b):
    """Two-sample Kolmogorov-Smirnov statistic."""
    grid = np.sort(np.concatenate([a, b]))
    below_a = np.searchsorted(np.sort(a), grid, side="right") / len(a)
    below_b = np.searchsorted(np.sort(b), grid, side="right") / len(b)
    return np.max(np.abs(below_a - below_b))


def torchvision_window(rng, height, width):
    """RandomResizedCrop.get_params, one image at a time."""
    log_ratio = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(10):
        target = height * width * rng.uniform(*SCALE)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    w, h = width, height
    if width / height < min(RATIO):
        h = round(w / min(RATIO))
    elif width / height > max(RATIO):
        w = round(h * max(RATIO))
    return (height - h) // 2, (width - w) // 2, h, w


def test_crops_and_flips_are_uniform_and_the_same_in_torch():
    index = np.arange(40000)
    top, left = views.crop_offsets(0, 1, index, 4)
    flip = views.flips(0, 1, index)
    place = (top * 9 + left) * 2 + flip
    count = np.bincount(place, minlength=162)
    assert len(count) == 162
    assert abs(chi_square(count, len(index) / 162) - 161) < 5 * math.sqrt(2 * 161)
    there = torch.from_numpy(index)
    assert all(
        np.array_equal(a, b.numpy()) for a, b in zip((top, left), views.crop_offsets(0, 1, there, 4), strict=True)
    )
    assert views.flips(0, 1, there).dtype == torch.bool
    assert np.array_equal(flip, views.flips(0, 1, there).numpy())


def test_no_padding_leaves_one_place():
    top, left = views.crop_offsets(0, 0, np.arange(100), 0)
    assert not top.any() and not left.any()


@pytest.mark.parametrize("height, width", [(375, 500), (500, 333), (200, 320), (64, 64)])
def test_windows_have_torchvisions_statistics(height, width):
    n = 6000
    rng = np.random.default_rng(0)
    slow = np.array([torchvision_window(rng, height, width) for _ in range(n)])
    fast = views.resized_crop_windows(0, 7, np.arange(n), np.full(n, height), np.full(n, width), SCALE, RATIO)
    for describe in (
        lambda t, x, h, w: h * w / (height * width),
        lambda t, x, h, w: np.log(w / h),
        lambda t, x, h, w: t / height,
        lambda t, x, h, w: x / width,
        lambda t, x, h, w: (t + 0.5) / (height - h + 1),
        lambda t, x, h, w: (x + 0.5) / (width - w + 1),
    ):
        # 1.95 sqrt(2 / n): exceeded by one in a thousand pairs of samples of one distribution.
        assert largest_gap(describe(*slow.T), describe(*fast.T)) < 1.95 * math.sqrt(2 / n)


def test_windows_lie_inside_images_of_any_size():
    rng = np.random.default_rng(1)
    height, width = rng.integers(1, 400, 5000), rng.integers(1, 400, 5000)
    top, left, h, w = views.resized_crop_windows(2, 0, np.arange(5000), height, width).T
    assert np.all((h >= 1) & (w >= 1) & (top >= 0) & (left >= 0) & (top + h <= height) & (left + w <= width))


def test_ten_failures_fall_back_to_the_centre():
    index = np.arange(50)
    tall = views.resized_crop_windows(0, 0, index, np.full(50, 1000), np.full(50, 10))
    wide = views.resized_crop_windows(0, 0, index, np.full(50, 10), np.full(50, 1000))
    assert np.all(tall == [(1000 - 13) // 2, 0, 13, 10])
    assert np.all(wide == [0, (1000 - 13) // 2, 10, 13])
    whole = views.resized_crop_windows(0, 0, index, np.full(50, 20), np.full(50, 20), (1.0, 1.0), (1.0, 1.0))
    assert np.all(whole == [0, 0, 20, 20])


def test_a_window_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(2)
    index, height, width = rng.permutation(9000)[:500], rng.integers(50, 400, 500), rng.integers(50, 400, 500)
    together = views.resized_crop_windows(4, 9, index, height, width)
    for part in (slice(0, 1), slice(3, 4), slice(100, 117), slice(499, 500)):
        assert np.array_equal(views.resized_crop_windows(4, 9, index[part], height[part], width[part]), together[part])
