"""Rotation with nearest sampling, bit-equal to Pillow's `Image.rotate(angle, NEAREST)` on any device."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.views.counter import Ints, Stream, uniform, words


def rotation_angles(seed: int, view: int, index_B: NDArray[np.int64], degrees: float) -> NDArray[np.float64]:
    """Angles float64 [B], degrees counter-clockwise, uniform in -degrees..degrees."""
    word, _, _, _ = words(seed, Stream.ROTATION, index_B, view)
    return (2.0 * uniform(word) - 1.0) * degrees


def rotation_matrices(angle_B: NDArray[np.float64], height: int, width: int) -> NDArray[np.int64]:
    """Affine maps from target to source pixels, int64 [B, 6] in 1/65536 pixel: (x per x, x per y, x at 0, y ...).

    Float work happens here, on the host; what is left for the device is integer arithmetic. Cosine and sine are
    rounded to 15 decimals by Python's `round`, as Pillow does: np.round differs in the last bit.
    """
    radians = [-math.radians(angle % 360.0) for angle in angle_B.tolist()]
    cos_B = np.array([round(math.cos(r), 15) for r in radians])
    sin_B = np.array([round(math.sin(r), 15) for r in radians])
    mid_x, mid_y = width / 2, height / 2
    shift_x = cos_B * -mid_x + sin_B * -mid_y + mid_x
    shift_y = -sin_B * -mid_x + cos_B * -mid_y + mid_y
    # Half a pixel along both axes: sampled at pixel centres.
    at_0 = (shift_x + cos_B * 0.5 + sin_B * 0.5, shift_y + -sin_B * 0.5 + cos_B * 0.5)
    real_B6 = np.stack([cos_B, sin_B, at_0[0], -sin_B, cos_B, at_0[1]], axis=1)
    return np.floor(real_B6 * 65536.0 + 0.5).astype(np.int64)


def rotation_sources(matrix_B6: Ints, row_H: Ints, column_W: Ints) -> tuple[Ints, Ints, Any]:
    """Source pixels (y_BHW, x_BHW) and inside_BHW, of the type and on the device of `matrix_B6`.

    row_H and column_W are 0..H-1 and 0..W-1. Where inside_BHW is False the source lies outside the image: the pixel
    is filled with 0 and its coordinates must not be used.
    """
    m = matrix_B6[:, :, None, None]
    row, column = row_H[:, None], column_W[None, :]
    x_BHW = (m[:, 0] * column + m[:, 1] * row + m[:, 2]) >> 16
    y_BHW = (m[:, 3] * column + m[:, 4] * row + m[:, 5]) >> 16
    inside = (x_BHW >= 0) & (x_BHW < len(column_W)) & (y_BHW >= 0) & (y_BHW < len(row_H))
    return y_BHW, x_BHW, inside
