"""Order, batches and parts of ranks."""

import numpy as np
import pytest

from pipeline import views
from pipeline.views import Stream


def chi_square(count, expected):
    return float(((count - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_order_is_a_permutation_that_depends_on_everything(n):
    base = views.order(0, 0, n)
    assert base.dtype == np.int64
    assert sorted(base.tolist()) == list(range(n))
    if n == 1000:
        others = [views.order(1, 0, n), views.order(0, 1, n), views.order(0, 0, n, Stream.SPLIT)]
        assert all(np.mean(base == other) < 0.02 for other in others)


def test_order_sorts_by_the_unsigned_key():
    high, low, _, _ = views.words(5, Stream.ORDER, np.arange(300), 4)
    keys = [(h << 32 | lo, i) for i, (h, lo) in enumerate(zip(high.tolist(), low.tolist(), strict=True))]
    assert views.order(5, 4, 300).tolist() == [i for _, i in sorted(keys)]


def test_every_sample_comes_everywhere_equally_often():
    n, epochs = 12, 3000
    count = np.zeros((n, n))
    for epoch in range(epochs):
        count[np.arange(n), views.order(11, epoch, n)] += 1
    freedom = (n - 1) ** 2
    assert abs(chi_square(count, epochs / n) - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("rows", [8, 16, 63, 64])
def test_rank_parts_cover_a_batch_in_order(rows, ranks):
    parts = [views.rank_slice(rows, rank, ranks) for rank in range(ranks)]
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(rows))
    sizes = [stop - start for start, stop in parts]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert parts == [(int(np.floor(r * rows / ranks)), int(np.floor((r + 1) * rows / ranks))) for r in range(ranks)]


def test_partners_are_a_permutation_per_step():
    first = views.partners(0, 3, 7, 64)
    assert sorted(first.tolist()) == list(range(64))
    for other in (views.partners(0, 3, 8, 64), views.partners(0, 4, 7, 64), views.partners(1, 3, 7, 64)):
        assert np.mean(first == other) < 0.15


def test_steps_and_views():
    assert [views.steps_per_epoch(n, 64) for n in (1, 64, 65, 50000)] == [1, 1, 2, 782]
    assert [views.view_of(e) for e in (0, 5, 239)] == [0, 5, 239]
    assert [views.view_of(e, 3) for e in range(7)] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 5000, 10_001])
@pytest.mark.parametrize("kind", views.ORDERS)
def test_every_order_is_a_permutation_of_its_own(kind, n):
    first, again, other = (views.epoch_order(kind, 3, epoch, n) for epoch in (0, 0, 1))
    assert sorted(first.tolist()) == list(range(n)) and first.tolist() == again.tolist()
    assert (first.tolist() == other.tolist()) == (kind == "sequential" or n < 2)


def test_the_quasi_random_order_keeps_neighbours_near():
    """Each stretch of 4,096 samples is made of 64 runs of 64 neighbours, shuffled into one another."""
    order = views.epoch_order("quasi_random", 0, 0, 3 * 4096)
    for start in range(0, len(order), 4096):
        runs, counts = np.unique(order[start : start + 4096] // 64, return_counts=True)
        assert len(runs) == 64 and set(counts.tolist()) == {64}
        assert np.abs(np.diff(order[start : start + 64])).min() >= 1
        assert len(set((order[start : start + 64] // 64).tolist())) > 30
    assert views.epoch_order("random", 0, 0, 500).tolist() == views.order(0, 0, 500).tolist()
