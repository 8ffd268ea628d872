"""The numbers behind the pictures against slow loops."""

import numpy as np
import pytest

from pipeline.pictures.agreement import agreement, divergence
from pipeline.pictures.calibration import BINS, reliability
from pipeline.pictures.correlation import correlation_difference, mean_difference
from pipeline.pictures.material import Outputs
from pipeline.pictures.tsne import embedded


def outputs(seed: int, samples: int = 60, classes: int = 4) -> Outputs:
    rng = np.random.Generator(np.random.Philox(seed))
    logits_NK = rng.normal(0, 2, (samples, classes)).astype(np.float32)
    return Outputs(logits_NK=logits_NK, pooled_ND=logits_NK, label_N=np.arange(samples) % classes)


def probabilities(logits_NK: np.ndarray) -> np.ndarray:
    exp_NK = np.exp(logits_NK.astype(np.float64))
    result: np.ndarray = exp_NK / exp_NK.sum(1, keepdims=True)
    return result


def test_agreement_and_divergence() -> None:
    student, teacher = outputs(1), outputs(2)
    same = sum(s.argmax() == t.argmax() for s, t in zip(student.logits_NK, teacher.logits_NK, strict=True))
    assert agreement(student, teacher) == pytest.approx(100 * same / 60)
    p_NK, q_NK = probabilities(teacher.logits_NK), probabilities(student.logits_NK)
    assert divergence(student, teacher) == pytest.approx((p_NK * np.log(p_NK / q_NK)).sum(1).mean())
    assert (agreement(teacher, teacher), divergence(teacher, teacher)) == (100, 0)


def test_mean_logits_as_the_notebook_forms_them() -> None:
    student, teacher = outputs(1), outputs(2)
    found_KK = mean_difference(student, teacher)
    for k in range(4):
        rows = student.label_N == k
        expected_K = np.abs(teacher.logits_NK[rows].mean(0) - student.logits_NK[rows].mean(0))
        expected_K[k] = 0
        np.testing.assert_allclose(found_KK[k], expected_K, atol=1e-6)


def test_correlations_are_numpys() -> None:
    student, teacher = outputs(1), outputs(2)
    expected_KK = np.abs(np.corrcoef(teacher.logits_NK.T) - np.corrcoef(student.logits_NK.T))
    np.testing.assert_allclose(correlation_difference(student, teacher), expected_KK, atol=1e-6)
    constant = Outputs(logits_NK=np.zeros((60, 4)), pooled_ND=np.zeros((60, 4)), label_N=student.label_N)
    assert np.isfinite(correlation_difference(constant, teacher)).all()


def test_reliability_against_a_loop() -> None:
    one = outputs(3, samples=500)
    found = reliability(one.logits_NK, one.label_N)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for p_K, logits_K, label in zip(probabilities(one.logits_NK), one.logits_NK, one.label_N, strict=True):
        number = next(i for i in range(BINS) if p_K.max() <= (i + 1) / BINS or i == BINS - 1)
        bins[number].append((p_K.max(), logits_K.argmax() == label))
    ece = 0.0
    for i, members in enumerate(bins):
        assert found.images[i] == len(members)
        if members:
            sure, right = np.mean([m[0] for m in members]), np.mean([m[1] for m in members])
            assert (found.confidence[i], found.accuracy[i]) == (pytest.approx(sure), pytest.approx(right))
            ece += len(members) / 500 * abs(float(sure) - float(right))
    assert found.ece == pytest.approx(100 * ece)


def test_a_network_that_is_sure_and_right_is_calibrated() -> None:
    logits_NK = 50.0 * np.eye(4)[np.arange(40) % 4]
    assert reliability(logits_NK, np.arange(40) % 4).ece == pytest.approx(0, abs=1e-9)
    assert reliability(logits_NK, (np.arange(40) + 1) % 4).ece == pytest.approx(100)


def test_tsne_keeps_clusters_apart_and_repeats() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    points_ND = np.concatenate([rng.normal(at, 0.1, (20, 6)) for at in (0.0, 5.0)])
    place_N2 = embedded(points_ND)
    distance_NN = np.linalg.norm(place_N2[:, None] - place_N2[None], axis=2)
    np.fill_diagonal(distance_NN, np.inf)
    nearest_N = distance_NN.argmin(1)
    assert ((nearest_N < 20) == (np.arange(40) < 20)).all()
    np.testing.assert_array_equal(place_N2, embedded(points_ND))
