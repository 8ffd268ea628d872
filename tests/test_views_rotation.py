"""Rotation tables against Pillow, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import views

ANGLES = [0.0, 90.0, 180.0, 270.0, -90.0, 45.0, -45.0, 1e-14, 1e-3, 179.99999, 360.0, -180.0, 20.0, -20.0, 13.7]


@pytest.mark.parametrize("height, width", [(32, 32), (64, 64), (31, 31), (33, 40), (1, 1), (7, 2), (224, 224)])
def test_gathered_pixels_are_pillows(height, width):
    rng = np.random.default_rng(height)
    angle_B = np.concatenate([ANGLES, views.rotation_angles(3, 1, np.arange(40), 180.0)])
    pixels = rng.integers(1, 256, (height, width, 3), dtype=np.uint8)
    matrix_B6 = views.rotation_matrices(angle_B, height, width)
    y, x, inside = views.rotation_sources(matrix_B6, np.arange(height), np.arange(width))
    for b, angle in enumerate(angle_B.tolist()):
        turned = np.zeros_like(pixels)
        turned[inside[b]] = pixels[y[b][inside[b]], x[b][inside[b]]]
        expected = np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.NEAREST))
        assert np.array_equal(turned, expected), angle


def test_tables_are_the_same_in_torch():
    matrix_B6 = views.rotation_matrices(views.rotation_angles(0, 0, np.arange(30), 20.0), 32, 48)
    here = views.rotation_sources(matrix_B6, np.arange(32), np.arange(48))
    there = views.rotation_sources(torch.from_numpy(matrix_B6), torch.arange(32), torch.arange(48))
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(here, there, strict=True))


def test_angles_are_uniform_in_their_range():
    angle = views.rotation_angles(0, 0, np.arange(20000), 15.0)
    assert angle.dtype == np.float64
    assert angle.min() >= -15 and angle.max() < 15
    grid = np.sort(angle)
    assert np.max(np.abs((grid + 15) / 30 - np.arange(20000) / 20000)) < 1.95 / np.sqrt(20000)
