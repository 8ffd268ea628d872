"""Mix parameters as a function of (seed, view, step). On the host only: exp and log differ between NumPy and torch.

Boxes are int64 [S, 4]: top, left, height, width in pixels, clipped at the border (a box may be empty).
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.views.counter import Stream, integer, words

TRIES = 64  # a rejection has a chance below 5 %: the last try is never reached


def mix_lambdas(seed: int, view: int, step_S: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """Beta(alpha, alpha) draws for the steps step_S, float64 [S]: G1 / (G1 + G2) of two gamma variates, in logarithms.

    Raises ValueError unless alpha > 0.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, not {alpha}")
    first = _log_gamma_variates(seed, view, step_S, alpha, 0)
    second = _log_gamma_variates(seed, view, step_S, alpha, 1)
    # Small alpha makes both variates tiny: only their ratio is safe to form.
    return np.exp(first - np.logaddexp(first, second))


def _open_uniform(word: NDArray[np.int64]) -> NDArray[np.float64]:
    """Float64 in (0, 1): safe for log."""
    return (word.astype(np.float64) + 0.5) * 2.0**-32


def _log_gamma_variates(
    seed: int, view: int, step_S: NDArray[np.int64], alpha: float, which: int
) -> NDArray[np.float64]:
    """log of Gamma(alpha) variates, float64 [S].

    Marsaglia and Tsang, "A simple method for generating gamma variables" (2000): rejection for shape + 1, then the
    factor U^(1/shape), which also serves shapes below 1. Two variates of one step use even and odd draws.
    """
    d = alpha + 1.0 - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    _, _, _, boost = words(seed, Stream.MIX, step_S, view, which)
    log_S = np.log(_open_uniform(boost)) / alpha + np.log(d)
    pending = np.arange(len(step_S))
    for attempt in range(TRIES):
        w0, w1, w2, _ = words(seed, Stream.MIX, step_S[pending], view, 2 * attempt + which)
        normal = np.sqrt(-2.0 * np.log(_open_uniform(w0))) * np.cos(2.0 * np.pi * _open_uniform(w1))
        v = (1.0 + c * normal) ** 3
        log_v = np.log(np.maximum(v, 1e-300))
        accepted = (v > 0) & (np.log(_open_uniform(w2)) < 0.5 * normal**2 + d - d * v + d * log_v)
        log_S[pending[accepted]] += log_v[accepted]
        pending = pending[~accepted]
        if not len(pending):
            break
    return log_S


def mix_boxes(
    seed: int, view: int, step_S: NDArray[np.int64], lambda_S: NDArray[np.float64], height: int, width: int
) -> NDArray[np.int64]:
    """CutMix boxes: centre uniform over the image, sides sqrt(1 - lambda) of the image's, halves rounded down."""
    share = np.sqrt(1.0 - lambda_S)
    sides = (share * height).astype(np.int64), (share * width).astype(np.int64)
    return _boxes(seed, Stream.BOX, view, step_S, sides, (height, width))


def cutout_boxes(
    seed: int, view: int, step_S: NDArray[np.int64], height: int, width: int, size: int
) -> NDArray[np.int64]:
    """Cutout squares of `size` pixels with a centre uniform over the image (DeVries and Taylor, 2017)."""
    side = np.full(len(step_S), size, dtype=np.int64)
    return _boxes(seed, Stream.CUTOUT, view, step_S, (side, side), (height, width))


def _boxes(
    seed: int,
    stream: Stream,
    view: int,
    step_S: NDArray[np.int64],
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    limits: tuple[int, int],
) -> NDArray[np.int64]:
    """Boxes [S, 4] of the given (heights, widths) around uniform centres, clipped to `limits` (height, width)."""
    down, right, _, _ = words(seed, stream, step_S, view)
    corners, lengths = [], []
    for word, side_S, limit in zip((down, right), sides, limits, strict=True):
        centre = integer(word, limit)
        start = np.clip(centre - side_S // 2, 0, limit)
        corners.append(start)
        lengths.append(np.clip(centre + side_S // 2, 0, limit) - start)
    return np.stack(corners + lengths, axis=1)
