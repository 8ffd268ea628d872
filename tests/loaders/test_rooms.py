"""Memory that is written again: only once nobody looks at it any longer."""

from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_sets import MEAN, STD, array_set, augmented, normalised

from pipeline.loaders import LOADERS
from pipeline.loaders.base import Reads
from pipeline.loaders.cpu_batches import Task, _SharedRoom
from pipeline.loaders.epoch_stream import Chain
from pipeline.loaders.extra_views import Read
from pipeline.loaders.pixels import Normalise, Room

EPOCHS = [Reads(epoch, 0, epoch, 8, np.arange(6), [Read(b, b + 1, 1) for b in range(6)]) for epoch in range(4)]


def following(todo: Reads) -> Reads | None:
    return EPOCHS[todo.epoch + 1] if todo.epoch < 3 else None


class Asker:
    def following(self, todo: Reads) -> Reads | None:
        return following(todo)


def three_ahead(tasks: Iterator[Task]) -> Iterator[Task]:
    """As DataLoader asks: some tasks at once, then one before each batch is handed out."""
    waiting: deque[Task] = deque()
    for task in tasks:
        waiting.append(task)
        if len(waiting) > 3:
            yield waiting.popleft()
    yield from waiting


def task(number: int | None, done: int = 0) -> Task:
    return Task(0, np.arange(1), number=number, done=done)


def test_a_task_says_whose_pixels_are_done_with() -> None:
    asker = Asker()
    chain: Chain[Task] = Chain(asker.following)
    seen: list[Task] = []  # as handed out, in the order of their numbers
    for todo in EPOCHS[:2]:
        for made in chain.batches(todo, three_ahead):
            seen.append(made)
            if made.number == 11:
                break  # the trainer leaves its epochs so, too
    assert [made.number for made in seen] == list(range(12))
    # Task n is drawn when n - 3 is about to be handed out: those before have been normalised.
    assert [made.done for made in seen] == [max(0, n - 3) for n in range(12)]


def test_after_an_epoch_that_was_left_early_all_is_done_with() -> None:
    asker = Asker()
    chain: Chain[Task] = Chain(asker.following)
    left = chain.batches(EPOCHS[0], three_ahead)
    assert [next(left).number, next(left).number] == [0, 1]
    again = next(chain.batches(EPOCHS[2], three_ahead))
    assert (again.number, again.done) == (5, 5)


def test_a_worker_writes_again_only_what_is_done_with() -> None:
    room = _SharedRoom()
    first, second = room.take(48, task(0)), room.take(48, task(1))
    third = room.take(48, task(2, done=0))
    assert len({pixels.data_ptr() for pixels in (first, second, third)}) == 3
    assert room.take(40, task(3, done=1)).data_ptr() == first.data_ptr()  # a smaller batch, in the same place
    assert room.take(48, task(4, done=2)).data_ptr() == second.data_ptr()
    assert room.take(96, task(5, done=3)).data_ptr() not in {first.data_ptr(), second.data_ptr(), third.data_ptr()}
    assert len(room._lent) == 3


def test_a_worker_keeps_nothing_of_tasks_without_a_number() -> None:
    room = _SharedRoom()
    held = [room.take(48, task(None)) for _ in range(3)]
    assert len({pixels.data_ptr() for pixels in held}) == 3 and not room._lent


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_of_workers_stay_what_they_were(workers: int) -> None:
    """Kept until the end, over more batches than a worker has room for."""
    images, how = array_set(n=150), augmented(batch_size=8)
    alone = LOADERS.get("torch")(images, how)
    loader = LOADERS.get("torch")(images, how.with_data(workers=workers))
    kept = [batch.image_BCHW for _ in range(2) for batch in loader]
    expected = [batch.image_BCHW.clone() for _ in range(2) for batch in alone]
    assert len(kept) == 38 and all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))


def test_normalised_batches_are_written_over_only_when_they_are_gone() -> None:
    normalise, room = Normalise(MEAN, STD, True, "cpu"), Room()
    pixels = torch.randint(0, 256, (3, 4, 8, 8, 3), dtype=torch.uint8)
    first, second = normalise(pixels[0], room), normalise(pixels[1], room)
    place, view = first.data_ptr(), first[1:, 0]
    del first
    third = normalise(pixels[2], room)  # of the first there still is a view
    assert len({place, second.data_ptr(), third.data_ptr()}) == 3
    assert np.array_equal(view[0].numpy(), normalised(pixels[0, 1].numpy())[0])
    del view
    smaller = normalise(pixels[2, :2], room)
    assert smaller.data_ptr() == place
    assert torch.equal(smaller, third[:2])
    assert np.array_equal(second[3].numpy(), normalised(pixels[1, 3].numpy()))
