"""SIGTERM, SIGINT and SIGUSR2 in every phase: a thread hears them, so that nothing that hangs can ignore them.

The first one is a wish. Where nothing would be lost it raises Stopped in the main thread at once. Where a training
holds it, the training looks for it after each step and each batch of an evaluation, writes a checkpoint and ends. What
does not answer in time (a read, a rank or a disk that hangs) is ended by the thread, with one line that says where it
stood. A second signal ends the process at once. Imports the standard library only: it listens before all other imports.
"""

import contextlib
import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: stopped on request, the same command goes on
SIGNALLED = 128  # + number of the signal: stopped, or killed, and nothing goes on
STEP = 10.0  # seconds that a signal waits for a step to end
SAVE = 30.0  # for a checkpoint to be written: Slurm's KillWait
LEAVE = 4.0  # for a process to end once it is on its way
# Two signals within this many seconds are one: timeout(1) signals a process and then its group.
TOGETHER = 0.25
TOGETHER_LAUNCHED = 1.0  # torchrun, srun and the parent of seeds hand on what a terminal sends to all anyway
LAUNCHED = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "WORLD_SIZE")
ANEW = "nothing is left half-written, the same command starts anew"
GOES_ON = "nothing was left to save, the same command goes on"
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "launch", "data_prep")
PR_SET_PDEATHSIG = 1
CURSOR = b"\x1b[?25h"  # of a terminal: shown, where a progress bar has hidden it


class Stopped(BaseException):
    """The wish of signal `number`, raised where nothing is lost by it. No Exception: none shall catch it by chance."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def _write(text: str) -> None:
    os.write(2, text.encode(errors="replace") + b"\n")  # not by sys.stderr: the main thread may hold its lock


class Listener:
    """Hears the signals of one process. received: number of the first one, 0 = none.

    rest: what becomes of the work; code: exit code after a signal, None = 128 + its number; bounded: the process is to
    end soon after an error too; finish: ends the process after a first signal in a way of its own; say: prints a line.
    """

    def __init__(self, rest: str, code: int | None, *, bounded: bool) -> None:
        self.rest, self.code, self.bounded = rest, code, bounded
        self.finish: Callable[[int], Any] | None = None
        self.say: Callable[[str], object] = _write
        self.together = TOGETHER_LAUNCHED if any(name in os.environ for name in LAUNCHED) else TOGETHER
        self.received = 0
        self.entered = not bounded  # whether somebody catches Stopped
        self.holding = False  # a signal is only noted
        self._open = False  # but here
        self._thrown = False
        self._first = 0.0
        self._deadline: tuple[float, str] | None = None  # and what was waited for
        self._leaving: int | None = None  # exit code of a process that has said why it ends
        self._before: dict[int, Any] = {}
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._main = threading.main_thread().ident or 0
        self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    # ---- in the main thread ------------------------------------------------------------------------------------------

    def take(self, *, all_of_them: bool = False) -> dict[int, Any]:
        """Handles the signals that nobody else handles, or all of them. Returns the handlers before."""
        before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            if all_of_them or handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._handle)
        return before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if not self.holding or self._open:
            self._throw()

    def _throw(self) -> None:
        if self._thrown or self._leaving is not None:
            return
        self._thrown = True
        if not self.entered:
            self._stop_here()
        raise Stopped(self.received)

    def _lost(self, args: Any) -> None:
        """A wish that fell into a destructor, where Python drops exceptions, still stands."""
        if isinstance(args.exc_value, Stopped):
            self._thrown = False
        else:
            self._hook(args)

    def _stop_here(self) -> None:
        """Nobody would catch it yet: the program is still being imported."""
        self.say(f"{_rank()}{name_of(self.received)}: stopped, {self.rest}")
        os._exit(self.exit_code(self.received))

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Inside, a signal raises Stopped though the training holds it: there is something to save, but it waits."""
        self._open = True
        try:
            if self.received:
                self._throw()
            yield
        finally:
            self._open = False

    def alive(self, seconds: float = STEP, what: str = "no step ended") -> None:
        """Something went on: a signal that was received waits that long from now."""
        if self.received:
            self._deadline = (time.monotonic() + seconds, f"{what} within {seconds:.0f} s")

    def leave(self, code: int, *, said: bool = True) -> None:
        """The process ends with `code`, soon after an error, whatever still hangs. said: there is nothing more to say.

        With workers it ends here: torch would wait seconds for what those who are gone have left in their queues.
        """
        self._leaving = code
        if self.bounded and code:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises where a worker dies
            had_workers = _kill_children()
            self._deadline = (time.monotonic() + LEAVE, "")
            os.write(self._writer, b"\0")
            # And Python takes a second to take torch apart, deaf to signals: torchrun would report a killed rank.
            if said and (self.received or had_workers or code == self.code or _rank()):
                sys.stdout.flush()
                sys.stderr.flush()
                self._end(code)

    def exit_code(self, number: int) -> int:
        """After a first signal."""
        return SIGNALLED + number if self.code is None else self.code

    def close(self) -> None:
        """Gives everything back. Not for the life of a process."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        sys.unraisablehook = self._hook
        os.write(self._writer, b"\xff")
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    # ---- in the thread -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline[0] - time.monotonic())
            ready, _, _ = select.select([self._reader], [], [], left)
            for number in os.read(self._reader, 64) if ready else b"":
                if number == 0xFF:
                    return
                if number in SIGNALS and signal.getsignal(number) == self._handle:
                    self._heard(number)
            if self._deadline is not None and time.monotonic() >= self._deadline[0]:
                self._give_up(self._deadline[1])

    def _heard(self, number: int) -> None:
        now = time.monotonic()
        if not self._first:
            self._first = now
            self.received = self.received or number
            wait = STEP if self.holding and self._leaving is None else LEAVE
            self._deadline = (now + wait, f"no step ended within {wait:.0f} s")
        elif now - self._first >= self.together:
            if self._leaving is not None:
                self._end(self._leaving)
            self.say(f"{_rank()}{signal.Signals(number).name} again: ended at once")
            self._end(SIGNALLED + number)

    def _give_up(self, waited: str) -> None:
        self._deadline = (time.monotonic() + LEAVE, "")  # whatever `say` and `finish` do
        if self._leaving is not None or not waited:
            self._end(self.exit_code(self.received) if self._leaving is None else self._leaving)
        name, where = signal.Signals(self.received).name, self._where()
        lost = "ended without a new checkpoint, the last one stands, the same command goes on"
        text = f"{waited}{where}: {lost}" if self.holding else f"stopped{where}: {self.rest}"
        self.say(f"{_rank()}{name}: {text}")
        if self.finish is not None:
            self.finish(self.received)
        self._end(self.exit_code(self.received))

    def _where(self) -> str:
        """The innermost line of ours at which the main thread stands."""
        frame = sys._current_frames().get(self._main)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            inside = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
            # An installed package lies among others', and a checkout can hold its environment.
            ours = len(inside) > 1 and (inside[0] in PACKAGES or "site-packages" not in path.parts)
            if ours and path != Path(__file__):
                return f" in {path.relative_to(ROOT)}:{frame.f_lineno} ({frame.f_code.co_name})"
            frame = frame.f_back
        return ""

    def _end(self, code: int) -> None:
        end_now(code)


def end_now(code: int) -> NoReturn:
    """Ends this process and its workers, whatever its other threads do."""
    _kill_children()
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, CURSOR)
    os._exit(code)


def _kill_children() -> bool:
    """Workers of this process: they may hang in what it hung in. Returns whether there were any."""
    found = False
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError, AttributeError):
            if child.daemon:
                found = True
                child.kill()
    return found


def name_of(number: int) -> str:
    """SIGTERM for 15."""
    return signal.Signals(number).name


def _rank() -> str:
    return f"rank {os.environ.get('RANK', '?')}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""


_listener: Listener | None = None


def current() -> Listener | None:
    """The listener of this process."""
    return _listener


def listen(rest: str = ANEW, code: int | None = None, *, bounded: bool = True) -> Listener:
    """Listens from now to the end of the process; see Listener."""
    global _listener
    _listener = Listener(rest, code, bounded=bounded)
    _listener.take()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # a torchrun that is killed, or hears SIGUSR2, leaves its ranks behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return _listener


@contextlib.contextmanager
def listening() -> Iterator[Listener | None]:
    """Listens inside, where nobody does yet; None in a thread, which hears no signals."""
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        yield _listener
        return
    mine = _listener = Listener(ANEW, None, bounded=False)
    mine._before = mine.take()
    try:
        yield mine
    finally:
        _listener = None
        mine.close()


def _forget_in_child() -> None:
    """A forked process is another: it dies of signals, like any program, until it says otherwise."""
    global _listener
    if _listener is None:
        return
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) == _listener._handle:
                signal.signal(number, signal.SIG_DFL)
    _listener = None


os.register_at_fork(after_in_child=_forget_in_child)
