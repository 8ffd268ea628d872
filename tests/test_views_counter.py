"""Philox against its published known answers, and the same bits from every back end."""

import numba
import numpy as np
import pytest
import torch

from pipeline import views
from pipeline.views import Stream

# Counter, key, answer: kat_vectors of Random123.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
SAMPLES = np.concatenate([np.arange(500), 2**32 - 1 - np.arange(12), [2**31, 2**31 - 1]]).astype(np.int64)

compiled = numba.njit(views.philox)


def numbers(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers_in_every_back_end(counter, key, answer):
    arguments = numbers(counter) + numbers(key)
    assert list(views.philox(*arguments)) == numbers(answer)
    assert list(compiled(*arguments)) == numbers(answer)
    arrays = views.philox(*[np.array([a], dtype=np.int64) for a in arguments])
    assert [int(word[0]) for word in arrays] == numbers(answer)
    tensors = views.philox(*[torch.tensor([a]) for a in arguments])
    assert [int(word[0]) for word in tensors] == numbers(answer)


@pytest.mark.parametrize("seed, view, draw", [(0, 0, 0), (2**32 - 1, 239, 9), (17, 2**31 + 5, 1)])
def test_words_uniforms_and_integers_are_the_same_bits(seed, view, draw):
    in_numpy = views.words(seed, Stream.WINDOW, SAMPLES, view, draw)
    in_torch = views.words(seed, Stream.WINDOW, torch.from_numpy(SAMPLES), view, draw)
    in_numba = np.array([compiled(s, view, draw, 0, seed, int(Stream.WINDOW)) for s in SAMPLES.tolist()]).T
    in_python = [views.philox(s, view, draw, 0, seed, int(Stream.WINDOW)) for s in SAMPLES.tolist()]
    assert np.array_equal(np.array(in_numpy), in_numba)
    assert np.array_equal(np.array(in_numpy), np.array(in_python).T)
    for word, tensor in zip(in_numpy, in_torch, strict=True):
        assert word.dtype == np.int64 and tensor.dtype == torch.int64
        assert np.array_equal(word, tensor.numpy())
        real = views.uniform(tensor)
        assert real.dtype == torch.float64
        assert np.array_equal(views.uniform(word), real.numpy())
        assert all(a * 2**32 == w for a, w in zip(views.uniform(word).tolist(), word.tolist(), strict=True))
        for n in (1, 9, 1000, 2**31 - 1):
            drawn = views.integer(word, n)
            assert np.array_equal(drawn, views.integer(tensor, n).numpy())
            assert drawn.tolist() == [w * n // 2**32 for w in word.tolist()]


def test_streams_views_draws_and_seeds_differ():
    sample = np.arange(64)
    drawn = [
        views.words(seed, stream, sample, view, draw)[0]
        for seed in (0, 1)
        for stream in Stream
        for view in (0, 1)
        for draw in (0, 1)
    ]
    assert len({tuple(word.tolist()) for word in drawn}) == len(drawn) == 8 * len(Stream)


def test_words_are_uniform_and_uncorrelated():
    word_W = np.array(views.words(3, Stream.CROP, np.arange(20000), 5))
    real = views.uniform(word_W)
    assert np.all((real >= 0) & (real < 1))
    assert np.allclose(real.mean(axis=1), 0.5, atol=5 / np.sqrt(12 * 20000))
    assert np.max(np.abs(np.corrcoef(real) - np.eye(4))) < 5 / np.sqrt(20000)
    bits = (word_W[:, :, None] >> np.arange(32)) & 1
    assert np.max(np.abs(bits.mean(axis=1) - 0.5)) < 5 * 0.5 / np.sqrt(20000)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_would_equal_another_is_refused(seed):
    with pytest.raises(ValueError, match="0 to 4294967295"):
        views.words(seed, Stream.CROP, np.arange(3), 0)


def test_the_law_stays_as_it_is():
    """Numbers of law version 1: caches on disk depend on them. Where one changes, views.VERSION must rise."""
    assert views.VERSION == 1
    assert {stream.name: int(stream) for stream in Stream} == {
        "ORDER": 0,
        "CROP": 1,
        "FLIP": 2,
        "ROTATION": 3,
        "WINDOW": 4,
        "MIX": 5,
        "PARTNER": 6,
        "SPLIT": 7,
        "CUTOUT": 8,
        "BOX": 9,
        "AUTOAUGMENT": 10,
        "RANDAUGMENT": 11,
        "STRONG": 12,
        "PATCH": 13,
        "RUNS": 14,
    }
    index = np.arange(6)
    size = np.full(6, 500), np.full(6, 375)
    assert views.order(1, 2, 10).tolist() == ORDER
    assert views.partners(1, 2, 3, 10).tolist() == PARTNERS
    assert np.stack(views.crop_offsets(1, 2, index, 4)).tolist() == CROPS
    assert views.flips(1, 2, index).tolist() == FLIPS
    assert views.resized_crop_windows(1, 2, index[:3], size[0][:3], size[1][:3]).tolist() == WINDOWS
    assert views.rotation_angles(1, 2, index, 20.0).tolist() == pytest.approx(ANGLES, abs=1e-9)
    assert views.mix_lambdas(1, 2, index, 0.2).tolist() == pytest.approx(LAMBDAS, rel=1e-9)
    assert views.mix_boxes(1, 2, index[:3], np.full(3, 0.4), 32, 32).tolist() == BOXES
    assert views.cutout_boxes(1, 2, index[:3], 32, 32, 8).tolist() == CUTOUTS


ORDER = [7, 4, 8, 5, 9, 2, 6, 0, 1, 3]
PARTNERS = [6, 9, 7, 5, 4, 2, 1, 0, 3, 8]
CROPS = [[2, 8, 6, 0, 8, 6], [6, 6, 5, 0, 3, 6]]
FLIPS = [True, True, False, True, False, True]
WINDOWS = [[50, 71, 351, 286], [214, 4, 266, 331], [15, 76, 268, 202]]
ANGLES = [-15.496589792892, 6.349356686696, 2.021775301546, 14.359469600022, -3.751773349941, 3.816693397239]
LAMBDAS = [
    0.14603763026303063,
    0.0013372373984624037,
    8.604656103497161e-05,
    0.8889037491155726,
    0.38404339343090477,
    1.8739416245260205e-07,
]
BOXES = [[6, 4, 24, 24], [16, 19, 16, 13], [0, 8, 13, 24]]
CUTOUTS = [[15, 12, 8, 8], [0, 0, 7, 8], [2, 11, 8, 8]]
