"""What all sets have in common."""

import time
from dataclasses import replace

import numpy as np

from pipeline.datasets import ArraySet


def make(rows: int) -> ArraySet:
    rng = np.random.Generator(np.random.Philox(2))
    return ArraySet(
        name="noise",
        split="train",
        label_N=rng.integers(0, 10, rows),
        class_names=tuple("abcdefghij"),
        pixels_NHWC=rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8),
    )


def test_fingerprint_is_of_order_pixels_and_labels() -> None:
    some = make(20)
    base = some.fingerprint()
    order = np.arange(20)[::-1]
    assert make(20).fingerprint() == base == replace(some, name="other", split="test").fingerprint()
    assert replace(some, pixels_NHWC=some.pixels_NHWC[order], label_N=some.label_N[order]).fingerprint() != base
    assert replace(some, label_N=(some.label_N + 1) % 10).fingerprint() != base
    changed = some.pixels_NHWC.copy()
    changed[7, 31, 31, 2] ^= 1
    assert replace(some, pixels_NHWC=changed).fingerprint() != base
    assert len(set(some.sample_ids())) == 20


def test_fifty_thousand_ids_take_about_a_third_of_a_second() -> None:
    some = make(5000)
    start = time.process_time()
    some.fingerprint()
    assert time.process_time() - start < 0.3  # 0.035 s measured; ten times that for slow machines
