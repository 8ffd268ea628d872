"""SIGTERM, SIGINT and SIGUSR2 as a wish that all ranks act on at the same step."""

import signal
from types import FrameType

import torch
import torch.distributed as dist

from pipeline.engine.parallel import World

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: stopped on request, start again to go on


class Interrupted(Exception):
    """The run stopped on signal `number`; where: the step after which it wrote its checkpoint, or a text of its own."""

    def __init__(self, number: int, where: int | str) -> None:
        self.number = number
        text = where if isinstance(where, str) else f"stopped after step {where}, checkpoint written"
        super().__init__(f"{signal.Signals(number).name}: {text}")


class Interrupts:
    """Collects signals. On several ranks the wish travels over the gloo side group while the next step runs."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = 0
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        self._sent = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def poll(self) -> int:
        """Number of a signal that some rank received at least one step ago, else 0; equal on all ranks."""
        if self.world.ranks == 1:
            return self.received
        answer = self.drain()
        self._sent = torch.tensor([self.received], dtype=torch.int64)
        self._work = dist.all_reduce(self._sent, op=dist.ReduceOp.MAX, group=self.world.side, async_op=True)
        return answer

    def drain(self) -> int:
        """The answer of the question that is under way, 0 when there is none; leaves no message behind."""
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._sent)

    def restore(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
