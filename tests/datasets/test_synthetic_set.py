"""The synthetic set is one fixed set."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.synthetic import SPEC
from pipeline.datasets.synthetic_pixels import Draws, generate, patterns

# SHA-256 over pixels [N, 32, 32, 3], then labels as little-endian int64. A change here is a new version of the set.
RECORDED = {
    "train": "ca40053f2a548702bdaba8a7a2b2d1cf697c48a40669fd39e8cf0383174c6ef2",
    "test": "deff45f23aaae104e1fd3530c64514e3c2bcebb5e4f6f9e0a639e75dd0378a41",
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
    small = replace(SPEC, train=4000, test=200, side=8, label_noise=0.3)
    truth = np.arange(4000) % SPEC.classes
    label = generate(small, "train")[1]
    wrong = label != truth
    expected = 0.3 * (1 - 0.5 / SPEC.classes)  # a label drawn from all classes may be the right one
    assert abs(wrong.mean() - expected) < 0.03  # four standard deviations
    inside = (label[wrong] // SPEC.group == truth[wrong] // SPEC.group).mean()
    chance = 0.5 * (SPEC.group - 1) / SPEC.classes
    assert abs(inside - (0.5 + chance) / (0.5 + 0.5 * (SPEC.classes - 1) / SPEC.classes)) < 0.06
    assert (generate(small, "test")[1] == truth[:200]).all()


def test_patterns_are_bilinear_between_control_points() -> None:
    field = patterns(SPEC)
    width = SPEC.side + SPEC.shift
    assert field.shape == (SPEC.classes, SPEC.prototypes, width, width, 3) and np.abs(field).max() <= 1
    bend = np.abs(np.diff(field, 2, axis=2)).max(axis=(0, 1, 3, 4)) > 1e-5
    assert bend.sum() <= 2 * (SPEC.grid - 2)  # straight but for the control points


def test_classes_of_a_group_are_alike() -> None:
    field = patterns(SPEC).reshape(SPEC.classes, SPEC.prototypes, -1)
    like = np.corrcoef(field[:, 0])
    group = np.arange(SPEC.classes) // SPEC.group
    same = (group[:, None] == group) & ~np.eye(SPEC.classes, dtype=bool)
    assert like[same].mean() > 0.35 and abs(like[group[:, None] != group].mean()) < 0.1


def test_a_picture_is_what_the_definition_says() -> None:
    """Without noise, blending, shift and wrong labels each test picture is gain * pattern + light, maybe mirrored."""
    plain = replace(SPEC, noise=0.0, mix=0.0, shift=0, light=0.0, contrast=80.0, test=40)
    pixels, label = generate(plain, "test")
    field = patterns(plain)
    for picture, k in zip(pixels.astype(np.float64) - 128, label, strict=True):
        errors = []
        for pattern in field[k].astype(np.float64):
            for view in (pattern, pattern[:, ::-1]):
                gain = (picture * view).sum() / (view * view).sum()
                errors.append((np.abs(picture - gain * view).max(), gain))
        error, gain = min(errors)
        assert error < 0.75 and 0.59 * plain.contrast < gain < 1.41 * plain.contrast


def test_draws() -> None:
    raw = np.random.Philox(key=1 + (2 << 32)).random_raw(4000)
    np.testing.assert_array_equal(Draws(1, 2).uniform(4000), (raw >> np.uint64(40)) / 2.0**24)
    np.testing.assert_array_equal(Draws(1, 2).below(7, 40, 100).ravel(), (raw >> np.uint64(32)) % 7)
    bell = Draws(3).bell(3, 33335)
    assert bell.shape == (3, 33335) and abs(bell.mean()) < 0.02 and abs(bell.std() - 1) < 0.02
    slow = [sum(int(word).to_bytes(8, "little")[half : half + 4]) - 510 for word in raw[:5] for half in (0, 4)]
    np.testing.assert_allclose(Draws(1, 2).bell(10), np.array(slow) / 147.8, rtol=1e-6)
