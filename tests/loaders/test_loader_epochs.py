"""Epoch arithmetic: ranks, restarts, subsets, errors. The loaders share it; both are tried."""

import numpy as np
import pytest
import torch
from small_sets import array_set, augmented, configured

from pipeline import views
from pipeline.contracts import InputError
from pipeline.loaders import LOADERS

BOTH = pytest.mark.parametrize("name", ["resident", "torch"])


def same(a, b):
    return (
        torch.equal(a.image_BCHW, b.image_BCHW)
        and torch.equal(a.index_B, b.index_B)
        and torch.equal(a.label_B, b.label_B)
        and (a.info.view, a.info.share) == (b.info.view, b.info.share)
    )


@BOTH
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_divide_the_batches_of_one_rank(name, ranks):
    image_set = array_set()
    whole = LOADERS.get(name)(image_set, augmented())
    parts = [LOADERS.get(name)(image_set, augmented(rank=rank, ranks=ranks)) for rank in range(ranks)]
    for epoch in (0, 1):
        for loader in (whole, *parts):
            loader.set_epoch(epoch)
        for batch, *pieces in zip(whole, *parts, strict=True):
            rows = len(batch.label_B)
            for field in ("image_BCHW", "label_B", "index_B"):
                assert torch.equal(getattr(batch, field), torch.cat([getattr(p, field) for p in pieces]))
            assert [p.info.share for p in pieces] == [ranks * len(p.label_B) / rows for p in pieces]
            mean = sum(p.info.share * p.image_BCHW.double().mean() for p in pieces) / ranks
            assert mean.item() == pytest.approx(batch.image_BCHW.double().mean().item(), abs=1e-12)


@BOTH
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 70, 71])
def test_evaluation_counts_each_sample_once(name, ranks, n):
    image_set = array_set(n)
    batches = [
        batch
        for rank in range(ranks)
        for batch in LOADERS.get(name)(image_set, configured(train=False, rank=rank, ranks=ranks))
    ]
    assert torch.cat([b.index_B for b in batches]).tolist() == list(range(n))
    assert torch.cat([b.label_B for b in batches]).tolist() == image_set.label_N.tolist()
    assert all(1 <= len(b.label_B) <= 16 for b in batches)


@BOTH
def test_a_restart_goes_on_with_the_unbroken_sequence(name):
    image_set = array_set()
    loader = LOADERS.get(name)(image_set, augmented())
    unbroken = [batch for _ in range(3) for batch in loader]
    assert len(unbroken) == 15
    for stop in (0, 1, 4, 5, 7, 14):
        first = LOADERS.get(name)(image_set, augmented())
        taken = []
        while len(taken) < stop:
            for batch in first:
                taken.append(batch)
                if len(taken) == stop:
                    break
        state = first.state_dict()
        assert state == {"epoch": stop // 5, "step": stop % 5}
        second = LOADERS.get(name)(image_set, augmented())
        second.load_state_dict(state)
        rest = [batch for _ in range(3 - stop // 5) for batch in second]
        assert len(taken) + len(rest) == 15
        assert all(same(a, b) for a, b in zip(unbroken, taken + rest, strict=True))


@BOTH
def test_epochs_can_be_begun_anywhere(name):
    loader = LOADERS.get(name)(array_set(), augmented())
    loader.set_epoch(7)
    full = list(loader)
    loader.set_epoch(7, 3)
    assert all(same(a, b) for a, b in zip(full[3:], loader, strict=True))
    loader.set_epoch(7, 5)
    assert list(loader) == [] and loader.state_dict() == {"epoch": 8, "step": 0}
    for epoch, step in ((0, 6), (0, -1), (-1, 0)):
        with pytest.raises(InputError, match="an epoch has 5 steps"):
            loader.set_epoch(epoch, step)


@BOTH
def test_views_repeat_while_the_order_does_not(name):
    loader = LOADERS.get(name)(array_set(), augmented(views=2))
    epochs = [list(loader) for _ in range(4)]
    assert [batches[0].info.view for batches in epochs] == [0, 1, 0, 1]

    def by_sample(batches):
        index = torch.cat([b.index_B for b in batches])
        return torch.cat([b.image_BCHW for b in batches])[index.argsort()], index

    (first, order), (other, _), (again, order_again) = (by_sample(epochs[e]) for e in (0, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(order, order_again)


@BOTH
def test_a_subset_keeps_the_positions_and_views_of_the_whole(name):
    image_set = array_set()
    held = np.sort(views.order(3, 0, 70, views.Stream.SPLIT)[:30])
    loader = LOADERS.get(name)(image_set, augmented(index_N=held))
    assert loader.num_samples == 30 and len(loader) == 2
    whole = {}
    for batch in LOADERS.get(name)(image_set, augmented()):
        whole.update(zip(batch.index_B.tolist(), batch.image_BCHW, strict=True))
    batches = list(loader)
    assert sorted(torch.cat([b.index_B for b in batches]).tolist()) == held.tolist()
    for batch in batches:
        assert batch.label_B.tolist() == image_set.label_N[batch.index_B.numpy()].tolist()
        assert all(torch.equal(whole[i], x) for i, x in zip(batch.index_B.tolist(), batch.image_BCHW, strict=True))
    tail = LOADERS.get(name)(image_set, configured(train=False, index_N=held, rank=1, ranks=2))
    assert torch.cat([b.index_B for b in tail]).tolist() == held[15:].tolist()


@BOTH
@pytest.mark.parametrize(
    "n, changes, message",
    [
        (70, {"batch_size": 2, "ranks": 3}, "a batch of 2 for 3 ranks"),
        (65, {"ranks": 2}, "a batch of 1 for 2 ranks"),
        (2, {"ranks": 3}, "a batch of 2 for 3 ranks"),
        (0, {}, "no images"),
        (70, {"index_N": np.array([3, 70])}, "outside its 70 images"),
        (70, {"index_N": np.array([], dtype=np.int64)}, "no images"),
    ],
    ids=str,
)
def test_what_cannot_be_divided_is_refused_when_the_loader_is_built(name, n, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        LOADERS.get(name)(array_set(n), augmented(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rank": 2, "ranks": 2}, "rank 2 of 2"),
        ({"resize": 15}, "resize=15 is less than image_size=16"),
        ({"views": 0}, "views=0"),
    ],
    ids=str,
)
def test_an_impossible_configuration_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        configured(**changes)
