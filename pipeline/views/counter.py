"""Philox-4x32-10: random words as a pure function of (seed, stream) and (sample, view, draw).

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Random123).
"""

from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

# int64 arrays of NumPy or tensors of torch: what comes in goes out.
Ints = TypeVar("Ints", NDArray[np.int64], torch.Tensor)

MASK = 0xFFFFFFFF


class Stream(IntEnum):
    """What a draw is for. Numbers are part of the law: append, never renumber."""

    ORDER = 0
    CROP = 1
    FLIP = 2
    ROTATION = 3
    WINDOW = 4
    MIX = 5
    PARTNER = 6
    SPLIT = 7
    CUTOUT = 8
    BOX = 9
    AUTOAUGMENT = 10
    RANDAUGMENT = 11
    STRONG = 12
    PATCH = 13
    RUNS = 14


def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """Four words for the counter (c0..c3) and the key (k0, k1), all 0 <= x < 2**32 held in 64-bit integers.

    The same body serves NumPy and torch int64 arrays, numba scalars and Python integers: the product of two 32-bit
    words may wrap a signed 64-bit integer, but its low and high word, cut out by masks, are right all the same.
    """
    for _ in range(10):
        p0 = 0xD2511F53 * c0
        p1 = 0xCD9E8D57 * c2
        c0 = ((p1 >> 32) & MASK) ^ c1 ^ k0
        c2 = ((p0 >> 32) & MASK) ^ c3 ^ k1
        c1 = p1 & MASK
        c3 = p0 & MASK
        k0 = (k0 + 0x9E3779B9) & MASK
        k1 = (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words(seed: int, stream: Stream, sample: Ints, view: int, draw: int | Ints = 0) -> tuple[Ints, Ints, Ints, Ints]:
    """Four independent random words (int64, 0 <= w < 2**32), each of the shape of `sample`, on its device.

    `sample` counts samples, steps or rows, whatever the stream is about. Raises ValueError for a seed outside
    0..2**32-1: cut to 32 bits it would silently equal another one.
    """
    if not 0 <= seed <= MASK:
        raise ValueError(f"a seed is an integer from 0 to {MASK}, not {seed}")
    return philox(sample, view, draw, 0, seed, int(stream))


def uniform(word: Ints) -> Any:
    """Float64 in [0, 1): word / 2**32, exact."""
    real = word.double() if isinstance(word, torch.Tensor) else word.astype(np.float64)
    return real * 2.0**-32


def integer(word: Ints, n: int | Ints) -> Ints:
    """Integers in [0, n) for n < 2**31: the high word of word * n."""
    return (word * n) >> 32
