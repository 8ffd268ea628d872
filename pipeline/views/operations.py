"""Which operations are done to an image, and how strongly, as a function of (seed, view, sample). On the host only.

Magnitudes are in the operation's own unit: shear as a slope, translation in pixels, rotation in degrees
counter-clockwise, brightness, color, contrast and sharpness as what is added to the factor 1, posterize in bits kept,
solarize as the threshold; 0 for the rest. Each image draws its own operations.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.views.counter import Stream, integer, uniform, words
from pipeline.views.policies import CIFAR10, IMAGENET, Operation

Ops = tuple[NDArray[np.int64], NDArray[np.float64]]

COUNT = 2  # operations per image, in all three kinds
DRAWN = 14  # RandAugment and FixMatch draw from the first 14 operations: all but INVERT
LEVELS = 10  # of AutoAugment
RAND_LEVELS, RAND_LEVEL = 31, 9  # of RandAugment, and the one that it uses

SIGNED = np.isin(np.arange(len(Operation)), np.arange(Operation.SHEAR_X, Operation.SHARPNESS + 1))


def _line(start: float, end: float, count: int) -> NDArray[np.float64]:
    """`count` points from start to end. One rounding per point: where it is a whole number, it is exact."""
    at = np.arange(count)
    return (start * (count - 1 - at) + end * at) / (count - 1)


def op_magnitudes(levels: int, size: int) -> NDArray[np.float64]:
    """Magnitudes float64 [15, levels], by operation and level, for images of size x size pixels.

    The scale of torchvision 0.28 for AutoAugment (10 levels) and RandAugment (31), but in float64: torch.linspace
    rounds in float32, and not alike on all processors.
    """
    table = np.zeros((len(Operation), levels))
    table[[Operation.SHEAR_X, Operation.SHEAR_Y]] = _line(0.0, 0.3, levels)
    table[[Operation.TRANSLATE_X, Operation.TRANSLATE_Y]] = _line(0.0, 150.0 / 331.0 * size, levels)
    table[Operation.ROTATE] = _line(0.0, 30.0, levels)
    table[Operation.BRIGHTNESS : Operation.SHARPNESS + 1] = _line(0.0, 0.9, levels)
    table[Operation.POSTERIZE] = 8 - np.rint(np.arange(levels) / ((levels - 1) / 4))
    table[Operation.SOLARIZE] = _line(255.0, 0.0, levels)
    return table


def _signed(op: NDArray[np.int64], magnitude: NDArray[np.float64], negative: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(SIGNED[op] & negative, -magnitude, magnitude)


def _autoaugment(seed: int, view: int, index_B: NDArray[np.int64], size: int) -> Ops:
    """One of 25 sub-policies; each of its two operations happens with its own chance and a sign of its own."""
    policy_P23 = np.array(CIFAR10 if size == 32 else IMAGENET, dtype=np.int64).reshape(-1, COUNT, 3)
    which, first, second, sign = words(seed, Stream.AUTOAUGMENT, index_B, view)
    op_B2, tenths_B2, level_B2 = np.moveaxis(policy_P23[integer(which, len(policy_P23))], 2, 0)
    happens_B2 = uniform(np.stack([first, second], axis=1)) < tenths_B2 / 10
    negative_B2 = (integer(sign, 4)[:, None] >> np.arange(COUNT)) & 1 == 0
    op_B2 = np.where(happens_B2, op_B2, Operation.IDENTITY)
    return op_B2, _signed(op_B2, op_magnitudes(LEVELS, size)[op_B2, level_B2], negative_B2)


def _randaugment(seed: int, view: int, index_B: NDArray[np.int64], size: int) -> Ops:
    """Two of 14 operations at level 9 of 0..30 (Cubuk et al. 2020, arXiv 1909.13719)."""
    draws = [words(seed, Stream.RANDAUGMENT, index_B, view, k) for k in range(COUNT)]
    op_B2 = integer(np.stack([w[0] for w in draws], axis=1), DRAWN)
    negative_B2 = integer(np.stack([w[1] for w in draws], axis=1), 2) == 1
    return op_B2, _signed(op_B2, op_magnitudes(RAND_LEVELS, size)[op_B2, RAND_LEVEL], negative_B2)


def _ranges(size: int) -> NDArray[np.float64]:
    """Smallest and largest magnitude float64 [15, 2] of FixMatch, images of size x size pixels."""
    table = np.zeros((len(Operation), 2))
    table[[Operation.SHEAR_X, Operation.SHEAR_Y]] = -0.3, 0.3
    table[[Operation.TRANSLATE_X, Operation.TRANSLATE_Y]] = -0.3 * size, 0.3 * size
    table[Operation.ROTATE] = -30.0, 30.0
    table[Operation.BRIGHTNESS : Operation.SHARPNESS + 1] = 0.05 - 1, 0.95 - 1
    table[Operation.POSTERIZE] = 4.0, 8.0
    table[Operation.SOLARIZE] = 0.0, 256.0
    return table


def _strong(seed: int, view: int, index_B: NDArray[np.int64], size: int) -> Ops:
    """Two of 14 operations, strength uniform in its range (Sohn et al. 2020, FixMatch, arXiv 2001.07685, table 12).

    Translations are whole pixels, the nearest ones: what nearest sampling makes of any other.
    """
    draws = [words(seed, Stream.STRONG, index_B, view, k) for k in range(COUNT)]
    op_B2 = integer(np.stack([w[0] for w in draws], axis=1), DRAWN)
    low_B2, high_B2 = np.moveaxis(_ranges(size)[op_B2], 2, 0)
    magnitude_B2 = low_B2 + (high_B2 - low_B2) * uniform(np.stack([w[1] for w in draws], axis=1))
    shifts = (op_B2 == Operation.TRANSLATE_X) | (op_B2 == Operation.TRANSLATE_Y)
    return op_B2, np.where(shifts, np.rint(magnitude_B2), magnitude_B2)


_RULES: dict[str, Callable[[int, int, NDArray[np.int64], int], Ops]] = {
    "autoaugment": _autoaugment,
    "randaugment": _randaugment,
    "strong": _strong,
}
OP_KINDS = tuple(_RULES)


def ops(seed: int, view: int, index_B: NDArray[np.int64], kind: str, size: int) -> Ops:
    """(operation int64 [B, 2], magnitude float64 [B, 2]) for images of size x size pixels, in the order of doing.

    kind is one of OP_KINDS: `autoaugment` (the CIFAR-10 policy for 32 pixels, the ImageNet policy otherwise),
    `randaugment` (two operations, level 9) and `strong` (FixMatch's). Raises KeyError for another.
    """
    return _RULES[kind](seed, view, index_B, size)


def patches(seed: int, view: int, index_B: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Squares int64 [B, 4] (top, left, height, width) that FixMatch greys after its operations, clipped at the border.

    The side is uniform in 0..size // 2 pixels, the centre uniform over the image of size x size pixels.
    """
    down, right, length, _ = words(seed, Stream.PATCH, index_B, view)
    side_B = integer(length, size // 2 + 1)
    start_B2 = integer(np.stack([down, right], axis=1), size) - side_B[:, None] // 2
    top_left_B2 = np.clip(start_B2, 0, size)
    bottom_right_B2 = np.clip(start_B2 + side_B[:, None], 0, size)
    return np.concatenate([top_left_B2, bottom_right_B2 - top_left_B2], axis=1)
