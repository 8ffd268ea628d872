"""The synthetic set is one fixed set."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.synthetic import SPEC
from pipeline.datasets.synthetic_pixels import Draws, class_marks, generate
from pipeline.datasets.synthetic_shapes import MARKS, TEXTURES

# SHA-256 over pixels [N, 32, 32, 3], then labels as little-endian int64. A change here is a new version of the set.
RECORDED = {
    "train": "df16c0d545a60c34d367d8849741602571dbdcf03673781c31ec7921b2bc9860",
    "test": "928a2faca41fb0de496dc2c4b1f269487e8d2a0a2cd4cabedad7a451f4587ade",
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_bits_everywhere(split: str) -> None:
    found = DATASETS.get("synthetic")(split=split)
    digest = hashlib.sha256(found.pixels_NHWC.tobytes())
    digest.update(found.label_N.astype("<i8").tobytes())
    assert digest.hexdigest() == RECORDED[split]
    assert found.num_classes == SPEC.classes >= 10 and len(found) == getattr(SPEC, split)
    assert found.pixels_NHWC.shape[1:] == (32, 32, 3) and found.pixels_NHWC.dtype == np.uint8
    assert len(set(found.sample_ids())) == len(found)


def test_unknown_split() -> None:
    with pytest.raises(InputError, match="unknown split"):
        DATASETS.get("synthetic")(split="val")


def test_a_longer_set_begins_with_the_shorter() -> None:
    short, _ = generate(replace(SPEC, test=30), "test")
    longer, labels = generate(replace(SPEC, test=300), "test")
    np.testing.assert_array_equal(longer[:30], short)
    assert labels.tolist() == [i % SPEC.classes for i in range(300)]


def test_splits_and_versions_differ() -> None:
    small = replace(SPEC, train=24, test=24, label_noise=0.0)
    train, test = generate(small, "train")[0], generate(small, "test")[0]
    other = generate(replace(small, version=2), "test")[0]
    assert not any((a == b).all() for a, b in zip(train, test, strict=True))
    assert not any((a == b).all() for a, b in zip(other, test, strict=True))


def test_wrong_labels_are_in_the_training_split_only() -> None:
    small = replace(SPEC, train=2000, test=200, side=8, marks=0, label_noise=0.3)
    truth = np.arange(2000) % SPEC.classes
    wrong = generate(small, "train")[1] != truth
    assert abs(wrong.mean() - 0.3) < 0.04  # four standard deviations
    moved = generate(small, "train")[1][wrong]
    assert abs((moved // 4 == truth[wrong] // 4).mean() - (0.5 + 0.5 * 3 / 11)) < 0.08
    assert (generate(small, "test")[1] == truth[:200]).all()


def test_no_single_part_tells_the_class() -> None:
    pairs = [tuple(pair) for pair in class_marks(np.arange(20)).tolist()]
    texture = [label // 4 for label in range(20)]
    assert len({(*pair, t) for pair, t in zip(pairs, texture, strict=True)}) == 20  # all parts together do
    for label in range(20):
        same_texture = [k for k in range(20) if texture[k] == texture[label]]
        assert len(same_texture) == 4
        for mark in pairs[label]:
            assert sum(mark in pairs[k] for k in same_texture) == 2
    assert len(set(pairs)) < 20  # some pairs are told apart by the texture only


def test_shapes_are_bounded_and_distinct() -> None:
    at = np.linspace(-1.6, 1.6, 65, dtype=np.float32)
    u, v = np.meshgrid(at, at)
    inside = [mark(u, v) > 0 for mark in MARKS]
    for cover in inside:
        assert 0.05 < cover[(abs(u) <= 1) & (abs(v) <= 1)].mean() < 0.8
        assert not cover[np.maximum(abs(u), abs(v)) > 1.3].any()
    for a, b in ((a, b) for i, a in enumerate(inside) for b in inside[:i]):
        assert (a & b).sum() < 0.8 * (a | b).sum()
    x, y = at[None, :], at[:, None]
    for texture in TEXTURES:
        wave = np.broadcast_to(texture(x, y), (65, 65))
        assert wave.dtype == np.float32 and wave.min() >= -1 and wave.max() <= 1


def test_draws() -> None:
    raw = np.random.Philox(key=1 + (2 << 32)).random_raw(4000)
    np.testing.assert_array_equal(Draws(1, 2).uniform(4000), (raw >> np.uint64(40)) / 2.0**24)
    np.testing.assert_array_equal(Draws(1, 2).below(7, 40, 100).ravel(), (raw >> np.uint64(32)) % 7)
    bell = Draws(3).bell(3, 33335)
    assert bell.shape == (3, 33335) and abs(bell.mean()) < 0.02 and abs(bell.std() - 1) < 0.02
    slow = [sum(int(word).to_bytes(8, "little")[half : half + 4]) - 510 for word in raw[:5] for half in (0, 4)]
    np.testing.assert_allclose(Draws(1, 2).bell(10), np.array(slow) / 147.8, rtol=1e-6)
