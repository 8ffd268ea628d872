"""Marks and textures of the synthetic set, as functions of plane coordinates.

Only +, -, *, abs, sqrt, floor, minimum and maximum in float32: the same bits on every machine (IEEE 754).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Field = Callable[[Any, Any], Any]  # two float32 arrays in, one out


def _norm(u: Any, v: Any) -> Any:
    return np.sqrt(u * u + v * v)


def _square(u: Any, v: Any) -> Any:
    return np.maximum(abs(u), abs(v))


def _stroke(across: Any, along: Any) -> Any:
    return np.minimum(0.25 - abs(across), 1 - abs(along))


def _wave(phase: Any) -> Any:
    """Triangle wave of period 1 in -1 .. 1."""
    return abs(phase - np.floor(phase + np.float32(0.5))) * 4 - 1


# How far a point (u, v) lies inside the shape, which fills about -1 .. 1 (negative outside).
MARKS: tuple[Field, ...] = (
    lambda u, v: 0.85 - _norm(u, v),  # disc
    lambda u, v: 0.25 - abs(_norm(u, v) - 0.75),  # ring
    lambda u, v: np.maximum(_stroke(u, v), _stroke(v, u)),  # plus
    lambda u, v: np.maximum(_stroke(u + 0.7, v), _stroke(v + 0.7, u)),  # corner
    lambda u, v: 0.22 - abs(_square(u, v) - 0.75),  # frame
    lambda u, v: np.minimum(abs(abs(u) - 0.4) - 0.2, 1 - _square(u, v)),  # three bars
    lambda u, v: np.minimum(v + 0.75, 0.9 - v - 1.7 * abs(u)),  # triangle
    lambda u, v: np.minimum(0.95 - _norm(u, v), u + 0.1),  # half disc
    lambda u, v: np.minimum(2 * u * v, 1 - _square(u, v)),  # two squares
    lambda u, v: 0.42 - _norm(abs(u) - 0.55, v),  # two dots
    lambda u, v: 0.25 - abs(abs(u) + abs(v) - 0.85),  # diamond
    lambda u, v: np.maximum(_stroke(v - 0.7, u), _stroke(u, v)),  # tee
)

# Textures by group; x [N, 1, W], y [N, H, 1] in units of the period. All look the same mirrored, or are drawn mirrored
# half of the time, since training may mirror images.
TEXTURES: tuple[Field, ...] = (
    lambda x, y: _wave(x),
    lambda x, y: _wave(y),
    lambda x, y: _wave(x) * _wave(y),
    lambda x, y: np.maximum(_wave(x), _wave(y)),
    lambda x, y: _wave(0.7 * x + 0.7 * y),
)
