"""Where an image is cut out and whether it is mirrored, as a function of (seed, view, sample)."""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.views.counter import Ints, Stream, integer, uniform, words

TRIES = 10


def crop_offsets(seed: int, view: int, index_B: Ints, padding: int) -> tuple[Ints, Ints]:
    """(top_B, left_B) in 0..2*padding, uniform: the corner of the crop in the image padded by `padding` pixels."""
    down, right, _, _ = words(seed, Stream.CROP, index_B, view)
    return integer(down, 2 * padding + 1), integer(right, 2 * padding + 1)


def flips(seed: int, view: int, index_B: Ints) -> NDArray[np.bool_] | torch.Tensor:
    """bool_B: whether the image is mirrored left to right; half of them are."""
    coin, _, _, _ = words(seed, Stream.FLIP, index_B, view)
    return coin >= 2**31


def resized_crop_windows(
    seed: int,
    view: int,
    index_B: NDArray[np.int64],
    height_B: NDArray[np.int64],
    width_B: NDArray[np.int64],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> NDArray[np.int64]:
    """Windows int64 [B, 4] (top, left, height, width) in images of height_B x width_B pixels.

    The distribution of torchvision's RandomResizedCrop: area uniform in `scale`, log of width / height uniform in
    `ratio`; ten tries for a window that fits, then the largest centred one of an allowed ratio. On the host only:
    exp differs between NumPy and torch.
    """
    window_B4 = _centre_windows(height_B, width_B, ratio)
    pending = np.arange(len(index_B))
    for draw in range(TRIES):
        high, wide = height_B[pending], width_B[pending]
        area_word, ratio_word, down, right = words(seed, Stream.WINDOW, index_B[pending], view, draw)
        area = high * wide * (scale[0] + (scale[1] - scale[0]) * uniform(area_word))
        low, top = np.log(ratio[0]), np.log(ratio[1])
        aspect = np.exp(low + (top - low) * uniform(ratio_word))
        w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (w > 0) & (w <= wide) & (h > 0) & (h <= high)
        drawn = np.stack([integer(down, high - h + 1), integer(right, wide - w + 1), h, w], axis=1)
        window_B4[pending[fits]] = drawn[fits]
        pending = pending[~fits]
        if not len(pending):
            break
    return window_B4


def _centre_windows(
    height_B: NDArray[np.int64], width_B: NDArray[np.int64], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    """The largest centred windows int64 [B, 4] whose width / height lies in `ratio`."""
    shape = width_B / height_B
    w = np.where(shape > ratio[1], np.rint(height_B * ratio[1]), width_B).astype(np.int64)
    h = np.where(shape < ratio[0], np.rint(width_B / ratio[0]), height_B).astype(np.int64)
    return np.stack([(height_B - h) // 2, (width_B - w) // 2, h, w], axis=1)
