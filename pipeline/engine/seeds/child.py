"""One of several seeds: a process that reports to its parent and does not outlive it."""

import contextlib
import ctypes
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import torch

from pipeline import signals
from pipeline.engine.distributed.preemption import EXIT_CODE
from pipeline.engine.reporting.reporter import Reporter, clock_text, figures_text
from pipeline.engine.seeds.share import WARM, Seen

PIECE = 900  # characters of a message: pipes take up to 4096 bytes in one go, whoever else is writing
BAR_SECONDS = 0.2  # between two moves of a bar
PR_SET_PDEATHSIG = 1
FAILED = 1

Work = Callable[[int, Reporter], None]


class Channel:
    """The child's end of the pipe to its parent. A parent that is gone is no error: the run still has to end."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def send(self, *message: Any) -> None:
        """A kind and its values."""
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(json.dumps(message, ensure_ascii=False).encode(errors="replace"))


class Lines(io.TextIOBase):
    """sys.stdout or sys.stderr of a child: whole lines, sent on."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.channel, self.stream, self._rest = channel, name, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            for start in range(0, max(1, len(line)), PIECE):
                self.channel.send("line", self.stream, line[start : start + PIECE])
        return len(text)

    def finish(self) -> None:
        """Sends a last line that has no end."""
        if self._rest:
            self.write("\n")


class SeedReporter(Reporter):
    """Lines through the parent; the bar, where the parent has a terminal, is the parent's too."""

    def __init__(self, channel: Channel, *, bars: bool) -> None:
        super().__init__(leader=True)
        self.channel, self.bars = channel, bars
        self._steps = 0  # of this process
        self._epoch, self._at, self._of, self._figures = "", 0, 0, ""
        self._shown = 0.0

    def start_epoch(self, epoch: int, epochs: int, first: int, steps: int) -> None:
        self._epoch, self._at, self._of = f"{epoch}/{epochs}", first, steps

    def step_done(self) -> None:
        self._steps += 1
        self._at += 1
        if self._steps in (1, WARM):
            self.channel.send("seen", asdict(self._seen()))
        if self.bars and time.monotonic() - self._shown > BAR_SECONDS:
            self._show()

    def figures(self, epoch: int, epochs: int, step: int, steps: int, figures: dict[str, Any], left: float) -> None:
        if not self.bars:
            super().figures(epoch, epochs, step, steps, figures, left)
            return
        self._figures = f"{figures_text(figures)} left {clock_text(left)}"
        self._show()

    def end_epoch(self) -> None:
        pass

    def _show(self) -> None:
        self._shown = time.monotonic()
        self.channel.send("bar", self._epoch, self._at, self._of, self._figures)

    def _seen(self) -> Seen:
        if not torch.cuda.is_initialized():
            return Seen(steps=self._steps, device="cpu")
        free, _ = torch.cuda.mem_get_info()
        return Seen(steps=self._steps, device="cuda", free=free, peak=torch.cuda.max_memory_reserved())


def _die_with(parent: int) -> None:
    """Asks the kernel for SIGTERM at the parent's death, however it dies: the run ends with a checkpoint."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(EXIT_CODE)


def run_child(
    work: Work, seed: int, pipe: Connection, others: Sequence[Connection], threads: int, *, bars: bool, parent: int
) -> None:
    """The process's whole life; signals.SIGNALS are blocked when it begins, so that none meets the parent's handler.

    work: trains `seed` and ends by SystemExit or returning. others: the parent's ends of pipes, which a child must not
    keep open: it would wait for ever on a parent that is gone.
    """
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    listener, channel = signals.listen(signals.GOES_ON, EXIT_CODE), Channel(pipe)
    listener.say = lambda text: channel.send("line", "stderr", text)
    listener.together = signals.TOGETHER_LAUNCHED  # a terminal's Ctrl-C comes from the parent once more
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
    for other in others:
        other.close()
    _die_with(parent)
    out, err = Lines(channel, "stdout"), Lines(channel, "stderr")
    sys.stdout, sys.stderr = out, err
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for processes and libraries that this one starts
    torch.set_num_threads(threads)
    try:
        work(seed, SeedReporter(channel, bars=bars))
    except Exception:
        traceback.print_exc()
        sys.exit(FAILED)
    finally:
        out.finish()
        err.finish()
