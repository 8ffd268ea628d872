"""SIGTERM, SIGINT and SIGUSR2 as a wish that all ranks act on at the same step, or batch of an evaluation."""

import contextlib
import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist

from pipeline.engine.distributed.parallel import World
from pipeline.signals import EXIT_CODE, GOES_ON, SAVE, SIGNALS, Stopped, listening

__all__ = ["EXIT_CODE", "Interrupted", "Interrupts", "Stopped"]
T = TypeVar("T")


class Interrupted(Exception):
    """The run stopped on signal `number`; where: the step after which it wrote its checkpoint, or a text of its own."""

    def __init__(self, number: int, where: int | str) -> None:
        self.number = number
        text = where if isinstance(where, str) else f"stopped after step {where}, checkpoint written"
        super().__init__(f"{signal.Signals(number).name}: {text}")


class Interrupts:
    """What a training does with the process's signals. On several ranks the wish travels over the gloo side group while
    the next step runs.

    Before the first question (`poll`) there is nothing to save: a signal raises Stopped at once, on this rank alone.
    From then on it is a wish, and the process is ended where no further question follows in time (pipeline/signals.py).
    """

    SIGNALS = SIGNALS

    def __init__(self, world: World) -> None:
        self.world = world
        self._stack = contextlib.ExitStack()
        listener = self._stack.enter_context(listening())
        assert listener is not None, "training runs in the main thread"
        self._listener = listener
        listener.rest, listener.code = GOES_ON, EXIT_CODE  # whichever program trains
        for number, handler in listener.take(all_of_them=True).items():
            self._stack.callback(signal.signal, number, handler)
        self._sent = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    @property
    def saves(self) -> bool:
        """Whether a signal is to end in a checkpoint: this process has got further than the last one."""
        return self._listener.holding

    def poll(self) -> int:
        """Number of a signal that some rank received at least one question ago, else 0; equal on all ranks."""
        self._listener.holding = True
        self._listener.alive()
        if self.world.ranks == 1:
            return self._listener.received
        answer = self.drain()
        self._sent = torch.tensor([self._listener.received], dtype=torch.int64)
        self._work = dist.all_reduce(self._sent, op=dist.ReduceOp.MAX, group=self.world.side, async_op=True)
        return answer

    def stop_if_asked(self) -> None:
        """`poll`, as an exception: Stopped, on all ranks at the same question."""
        wish = self.poll()
        if wish:
            raise Stopped(wish)

    def awaited(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`; on one rank a signal raises Stopped while the next one is waited for, however long that takes.

        On several ranks the others would wait for this one's step: there it is acted on when all have heard of it.
        """
        waiting = self._listener.open if self.world.ranks == 1 else contextlib.nullcontext
        with waiting():
            source = iter(batches)
        while True:
            try:
                with waiting():
                    batch = next(source)
            except StopIteration:
                return
            yield batch

    def saving(self) -> None:
        """A checkpoint is about to be written: a signal waits for it."""
        self._listener.alive(SAVE, "the checkpoint was not written")

    def drain(self) -> int:
        """The answer of the question that is under way, 0 when there is none; leaves no message behind."""
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._sent)

    def restore(self) -> None:
        """Give the signals back to whoever handled them before."""
        self._listener.alive()
        self._listener.holding = False
        self._stack.close()
