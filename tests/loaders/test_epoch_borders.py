"""Work goes on over the border of epochs, and nothing of it shows: plain order, restarts, breaks, short epochs."""

import gc
import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_sets import array_set, augmented, configured, file_set

from pipeline.contracts import Batch
from pipeline.loaders import LOADERS
from pipeline.loaders.base import EpochLoader, Reads
from pipeline.loaders.cpu_batches import Task
from pipeline.loaders.epoch_stream import Chain
from pipeline.loaders.extra_views import Read


def same(a: Batch, b: Batch) -> bool:
    return a.info.view == b.info.view and torch.equal(a.image_BCHW, b.image_BCHW) and torch.equal(a.index_B, b.index_B)


def reads(epoch: int, batches: int = 3) -> Reads:
    return Reads(epoch, 0, epoch, 8, np.arange(2 * batches), [Read(2 * b, 2 * b + 2, 2) for b in range(batches)])


class Following:
    """The epochs of a loader, and what was asked of it."""

    def __init__(self, last: int = 9) -> None:
        self.known = {epoch: reads(epoch) for epoch in range(last + 1)}

    def __call__(self, todo: Reads) -> Reads | None:
        return self.known.get(todo.epoch + 1)

    def method(self, todo: Reads) -> Reads | None:
        return self(todo)


class Eager:
    """Takes `ahead` tasks more than it gives back, as worker processes do."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.starts = 0
        self.taken: list[Task] = []

    def __call__(self, tasks: Iterator[Task]) -> Iterator[tuple[int, int]]:
        self.starts += 1
        waiting = deque(itertools.islice(tasks, self.ahead))
        self.taken = list(waiting)
        while True:
            more = list(itertools.islice(tasks, 1))
            self.taken += more
            waiting += more
            if not waiting:
                break
            task = waiting.popleft()
            yield task.view, int(task.index_B[0])


def wanted(epoch: int) -> list[tuple[int, int]]:
    return [(epoch, 0), (epoch, 2), (epoch, 4)]


@pytest.mark.parametrize("ahead", [0, 1, 4, 8])
def test_a_chain_begins_the_next_epoch_before_it_is_asked_for(ahead: int) -> None:
    following, make = Following(), Eager(ahead)
    chain: Chain[tuple[int, int]] = Chain(following.method)
    for epoch in range(4):
        assert list(chain.batches(following.known[epoch], make)) == wanted(epoch)
        assert [task.view for task in make.taken[3 * epoch :]].count(epoch + 1) == min(ahead, 3)
    assert make.starts == (4 if ahead == 0 else 1)


def test_a_chain_starts_anew_where_another_epoch_is_asked_for() -> None:
    following, make = Following(), Eager(4)
    chain: Chain[tuple[int, int]] = Chain(following.method)
    assert list(chain.batches(following.known[0], make)) == wanted(0)
    assert list(chain.batches(following.known[2], make)) == wanted(2)  # not the one that follows
    assert list(chain.batches(reads(3), make)) == wanted(3)  # equal, but prepared anew
    assert make.starts == 3
    left = chain.batches(following.known[4], make)
    assert next(left) == (4, 0) and make.starts == 3
    left.close()
    assert list(chain.batches(following.known[5], make)) == wanted(5)
    assert list(chain.batches(following.known[6], make)) == wanted(6)
    assert make.starts == 4


def test_a_chain_ends_with_the_last_epoch() -> None:
    following, make = Following(last=1), Eager(4)
    chain: Chain[tuple[int, int]] = Chain(following.method)
    for epoch in (0, 1, 0, 1):
        assert list(chain.batches(following.known[epoch], make)) == wanted(epoch)
    assert make.starts == 2


def loaders(workers: int) -> list[tuple[EpochLoader, EpochLoader]]:
    """(looks ahead, does not) of the same configuration: padded crops, and windows in both loaders that have them."""
    how: dict[str, Any] = {"crop": "window", "flip": True, "batch_size": 5}
    plain = LOADERS.get("torch")
    return [
        (plain(array_set(), augmented(workers=workers)), plain(array_set(), augmented())),
        (plain(file_set(), configured(workers=workers, **how)), plain(file_set(), configured(**how))),
        (LOADERS.get("resident")(file_set(), configured(workers=workers, **how)), plain(file_set(), configured(**how))),
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_walk_through_the_epochs_gives_the_plain_order(workers: int) -> None:
    # (epoch or None: go on, first step, batches to take)
    walk = [(None, 0, 99)] * 3 + [(3, 2, 99), (None, 0, 2), (3, 0, 99), (None, 0, 5), (7, 0, 1), (None, 0, 99)]
    walk += [(7, 0, 99), (8, 0, 99), (8, 0, 99), (9, 1, 1), (10, 0, 99)]
    for ahead, plain in loaders(workers):
        for epoch, first, count in walk:
            for loader in (ahead, plain):
                if epoch is not None:
                    loader.set_epoch(epoch, first)
            taken = 0
            for a, b in zip(ahead, plain, strict=True):
                assert same(a, b)
                taken += 1
                if taken == count:
                    break
            assert taken > 0 and ahead.state_dict() == plain.state_dict()


def test_epochs_shorter_than_what_is_fetched_ahead() -> None:
    image_set = array_set(18)
    ahead = LOADERS.get("torch")(image_set, augmented(workers=3))
    plain = LOADERS.get("torch")(image_set, augmented())
    for _ in range(5):
        assert all(same(a, b) for a, b in zip(ahead, plain, strict=True))
    gc.collect()
    before = len(multiprocessing.active_children())
    assert before >= 3
    del ahead
    assert len(multiprocessing.active_children()) == before - 3  # freed without the cycle collector


def test_evaluation_ends_with_its_pass() -> None:
    loader = LOADERS.get("torch")(array_set(), augmented(train=False, workers=2))
    for _ in range(3):
        assert torch.cat([batch.index_B for batch in loader]).tolist() == list(range(70))
    assert loader.following(reads(0)) is None
