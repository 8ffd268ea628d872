"""Small sets in memory."""

import numpy as np

from pipeline.datasets import ArraySet


def colour_set(rows: int, size: int = 16, classes: int = 10, split: str = "train") -> ArraySet:
    """`rows` random images; the label is in the colour."""
    rng = np.random.Generator(np.random.Philox(rows))
    label_N = rng.integers(0, classes, rows)
    colour = rng.integers(0, 256, (classes, 3))
    pixels = (colour[label_N][:, None, None, :] + rng.integers(-60, 60, (rows, size, size, 3))).clip(0, 255)
    return ArraySet(
        name="colours",
        split=split,
        label_N=label_N.astype(np.int64),
        class_names=tuple(f"c{k}" for k in range(classes)),
        pixels_NHWC=pixels.astype(np.uint8),
    )
