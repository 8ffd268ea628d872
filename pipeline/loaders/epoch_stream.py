"""One run of tasks over epoch after epoch, so that whoever makes the batches never idles at a border."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakMethod

from pipeline.loaders.base import Reads
from pipeline.loaders.cpu_batches import Task

Made = TypeVar("Made")
Start = Callable[[Iterator[Task]], Iterator[Made]]


@dataclass
class Count:
    """Tasks that were handed out since the chain was made; of them those whose pixels were taken, or dropped."""

    drawn: int = 0
    taken: int = 0


def _tasks(
    todo: Reads | None, begun: deque[Reads], following: WeakMethod[Callable[[Reads], Reads | None]], count: Count
) -> Iterator[Task]:
    while todo is not None:
        begun.append(todo)
        for start, stop, own in todo.reads:
            # Whoever asks for the next pixels has done with those that were taken.
            task = Task(todo.view, todo.index_M[start:stop], own, todo.size, count.drawn, count.taken)
            count.drawn += 1
            yield task
        ask = following()
        todo = ask(todo) if ask is not None else None
        del ask


class Chain(Generic[Made]):
    """What is made of the tasks of one epoch goes on with the next epoch's, where exactly that is asked for next.

    following: EpochLoader.following, None after the last. It is kept as a weak reference: a loader that could only be
    freed by the cycle collector would hold its worker processes until then.
    """

    def __init__(self, following: Callable[[Reads], Reads | None]) -> None:
        self._following = WeakMethod(following)
        self._begun: deque[Reads] = deque()  # epochs whose tasks are handed out, from the present one
        self._left = 0  # batches of the present epoch
        self._count = Count()
        self._made: Iterator[Made] | None = None

    def batches(self, todo: Reads, start: Start[Made]) -> Iterator[Made]:
        """For each of todo.reads what `start` makes of its task. An epoch that was left early is begun anew."""
        if self._left == 0 and len(self._begun) > 1 and self._begun[1] is todo:
            self._begun.popleft()
        else:
            self._made = None  # what runs ends before the other begins
            self._begun = deque()
            self._count.taken = self._count.drawn
            self._made = start(_tasks(todo, self._begun, self._following, self._count))
        self._left = len(todo.reads)
        made = self._made
        assert made is not None
        for _ in todo.reads:
            batch = next(made)
            self._left -= 1
            self._count.taken += 1
            yield batch
