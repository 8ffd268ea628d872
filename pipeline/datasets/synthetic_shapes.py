"""Marks and textures of the synthetic set, as functions of plane coordinates.

Only +, -, *, abs, sqrt, floor, minimum and maximum in float32: the same bits on every machine (IEEE 754).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def _box(u: Floats, v: Floats) -> Floats:
    return 1 - np.maximum(abs(u), abs(v))


def _stroke(across: Floats, along: Floats) -> Floats:
    return np.minimum(0.25 - abs(across), 1 - abs(along))


# How far a point (u, v) lies inside the shape, which fills about -1 .. 1 (negative outside).
MARKS: tuple[Callable[[Floats, Floats], Floats], ...] = (
    lambda u, v: 0.85 - np.sqrt(u * u + v * v),  # disc
    lambda u, v: 0.25 - abs(np.sqrt(u * u + v * v) - 0.75),  # ring
    lambda u, v: np.maximum(_stroke(u, v), _stroke(v, u)),  # plus
    lambda u, v: np.maximum(_stroke(u + 0.7, v), _stroke(v + 0.7, u)),  # corner
    lambda u, v: 0.22 - abs(np.maximum(abs(u), abs(v)) - 0.75),  # frame
    lambda u, v: np.minimum(abs(abs(u) - 0.4) - 0.2, 1 - np.maximum(abs(u), abs(v))),  # three bars
    lambda u, v: np.minimum(v + 0.75, 0.9 - v - 1.7 * abs(u)),  # triangle
    lambda u, v: np.minimum(0.95 - np.sqrt(u * u + v * v), u + 0.1),  # half disc
    lambda u, v: np.minimum(2 * u * v, _box(u, v)),  # two squares
    lambda u, v: 0.42 - np.sqrt((abs(u) - 0.55) * (abs(u) - 0.55) + v * v),  # two dots
    lambda u, v: 0.25 - abs(abs(u) + abs(v) - 0.85),  # diamond
    lambda u, v: np.maximum(_stroke(v - 0.7, u), _stroke(u, v)),  # tee
)


def _wave(phase: Floats) -> Floats:
    """Triangle wave of period 1 in -1 .. 1."""
    folded: Floats = abs(phase - np.floor(phase + np.float32(0.5))) * 4 - 1
    return folded


# Textures by group: x, y in units of the period; all look the same mirrored, since training may mirror images.
TEXTURES: tuple[Callable[[Floats, Floats], Floats], ...] = (
    lambda x, y: _wave(x),
    lambda x, y: _wave(y),
    lambda x, y: _wave(x) * _wave(y),
    lambda x, y: np.maximum(_wave(x), _wave(y)),
    lambda x, y: _wave(0.7 * x + 0.7 * y),
)
