"""The process that starts the seeds, hands signals on to them, prints what they say and collects how they end."""

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from pipeline.contracts import InputError
from pipeline.engine.distributed.preemption import EXIT_CODE, Interrupts
from pipeline.engine.seeds.child import Work, run_child
from pipeline.engine.seeds.display import Display
from pipeline.engine.seeds.share import Seen, Share, limit_by
from pipeline.signals import LEAVE, SAVE, STEP, TOGETHER

BAD_INPUT = 2
NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
GIB = 1 << 30
LOOK_SECONDS = 1.0  # a child that was killed is missed by then: a loader's processes may hold its pipes open
FORK = multiprocessing.get_context("fork")


class _Running(NamedTuple):
    process: multiprocessing.context.ForkProcess
    pipe: connection.Connection


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """codes: of each seed that was started, as multiprocessing gives them (-9: killed by signal 9); signal: that this
    process received, 0 = none; again: a second one; not_begun: seeds that were never started."""

    codes: dict[int, int]
    signal: int
    again: int
    not_begun: list[int]

    @property
    def failed(self) -> dict[int, int]:
        """Those that neither ended well nor stopped in order."""
        return {seed: code for seed, code in self.codes.items() if code not in (0, EXIT_CODE)}

    @property
    def unfinished(self) -> list[int]:
        """Those that another call has to go on with."""
        return [*(seed for seed, code in self.codes.items() if code == EXIT_CODE), *self.not_begun]

    @property
    def failed_text(self) -> str:
        """Which seeds failed, how many did not, and which were left out."""
        names = ", ".join(map(str, self.failed))
        left_out = f"; not begun: {', '.join(map(str, self.not_begun))}" if self.not_begun else ""
        return f"failed: seed {names} of {len(self.codes) + len(self.not_begun)} seeds{left_out}"


def code_text(code: int) -> str:
    """How a child ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    killed = f"was killed by {signal.Signals(-code).name}"
    return f"{killed} (out of memory?)" if code == -signal.SIGKILL else killed


def _is_stopped(pid: int | None) -> bool:
    """Whether a process stands still on SIGSTOP."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


class _Parent:
    """The state of train_together."""

    def __init__(self, seeds: list[int], work: Work, share: Share, display: Display) -> None:
        self.work, self.share, self.display = work, share, display
        self.waiting = list(seeds)
        self.running: dict[int, _Running] = {}
        self.codes: dict[int, int] = {}
        self.received = 0
        self.again = 0  # number of a second signal
        self.at = 0.0  # when the last one was heard
        self.limit = 1  # until the first one is under way: what is wrong with all of them is then said once
        self.stepped = False
        self.hear: dict[str, Callable[..., None]] = {
            "line": display.line,
            "bar": display.bar,
            "seen": self._measured,
        }

    def run(self) -> Outcome:
        """All seeds, from the first start to the last end."""
        with self._handlers():
            try:
                while self.running or (self.waiting and not self.received):
                    self._start_what_fits()
                    self._listen()
                    self._reap()
                    self._end_what_hangs()
            finally:
                self._end_all()
        codes = dict(sorted(self.codes.items()))
        return Outcome(codes=codes, signal=self.received, again=self.again, not_begun=self.waiting)

    @contextlib.contextmanager
    def _handlers(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._forward) for number in Interrupts.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received and now - self.at >= TOGETHER:
            self.again, self.at = number, now
        elif not self.received:
            self.received, self.at = number, now
        for child in self.running.values():
            if child.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.process.pid, number)

    def _end_what_hangs(self) -> None:
        """Children answer signals by themselves; but one that is stopped cannot, nor one whose disk does not answer."""
        if not self.received:
            return
        waited = time.monotonic() - self.at
        for seed, child in self.running.items():
            limit = LEAVE if self.again else STEP + LEAVE if _is_stopped(child.process.pid) else STEP + SAVE + LEAVE
            if waited > limit and child.process.is_alive():
                self.display.note(f"seed {seed} did not end within {waited:.0f} s: killed", error=True)
                child.process.kill()

    def _start_what_fits(self) -> None:
        while self.waiting and len(self.running) < self.limit and not self.received:
            self._start(self.waiting.pop(0))

    def _start(self, seed: int) -> None:
        reader, writer = FORK.Pipe(duplex=False)
        others = [reader, *(child.pipe for child in self.running.values())]
        how = {"bars": self.display.bars, "parent": os.getpid()}
        process = FORK.Process(
            target=run_child, args=(self.work, seed, writer, others, self.share.threads), kwargs=how, daemon=False
        )
        # Between the fork and its own handlers a child must not act on a signal as its parent would.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, Interrupts.SIGNALS)
        try:
            process.start()
            self.running[seed] = _Running(process, reader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        writer.close()

    def _listen(self) -> None:
        sources = [item for child in self.running.values() for item in (child.pipe, child.process.sentinel)]
        connection.wait(sources, timeout=LOOK_SECONDS)
        for seed in [*self.running]:
            self._read(seed)

    def _read(self, seed: int) -> None:
        pipe = self.running[seed].pipe
        with contextlib.suppress(EOFError, OSError):
            while pipe.poll():
                kind, *values = json.loads(pipe.recv_bytes())
                self.hear[kind](seed, *values)

    def _measured(self, seed: int, seen: dict[str, Any]) -> None:
        self.stepped = True
        if len(self.running) > 1 or self.limit == self.share.at_once:
            return
        found = Seen(**seen)
        self.limit = limit_by(self.share, found)
        if self.limit > 1 and found.device != "cpu":
            gib = f"{found.peak / GIB:.1f} GiB reserved by seed {seed}, {found.free / GIB:.1f} GiB free"
            self.display.note(f"{gib}: {self.limit} seeds at once")

    def _reap(self) -> None:
        for seed, child in [*self.running.items()]:
            code = child.process.exitcode
            if code is None:
                continue
            self._read(seed)  # what it said between the last look and its end
            child.process.join()
            child.pipe.close()
            del self.running[seed]
            self.codes[seed] = code
            self.display.end(seed)
            if code not in (0, EXIT_CODE):
                self.display.note(f"seed {seed} {code_text(code)}", error=True)
            if code == BAD_INPUT and not self.stepped and len(self.codes) == 1:
                self.waiting.clear()  # refused before its first step, and the others have the same keys

    def _end_all(self) -> None:
        """Leaves no process behind, whatever went wrong here."""
        for child in self.running.values():
            child.pipe.close()  # nobody reads any more: a child must not wait for that
            child.process.terminate()
        for child in self.running.values():
            child.process.join(STEP + LEAVE)
            child.process.kill()
            child.process.join()


def prepare_to_fork() -> None:
    """Before the parent does anything else: keeps it from what no fork survives, and imports what all would import.

    CUDA's start: a mere question for a device would be one, unless NVML answers it. OpenMP's threads: a child would
    wait for those of its parent; each sets its own number. torch's optimisers import its compiler at their first step,
    which is 1.2 s of a core.
    """
    os.environ.setdefault(NVML_CHECK, "1")
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")


def train_together(seeds: list[int], work: Work, share: Share, display: Display) -> Outcome:
    """`work(seed, reporter)` for each of `seeds` in processes of their own, share.at_once side by side.

    The first one goes ahead alone up to its first step, and where a GPU's memory is to be measured up to share.WARM:
    what is wrong with all of them is said once, and what it compiles the others find. Raises InputError where CUDA is
    in use already: a forked process cannot use it.
    """
    if torch.cuda.is_initialized():
        raise InputError("this process has used CUDA, and no fork can: start seeds side by side from a fresh process")
    return _Parent(seeds, work, share, display).run()
