"""A data worker that dies is named, whatever error its death shows as first.

The kernel closes the sockets of a killed process before it can be waited for. A trainer that is just then fetching what
the worker handed over (a file descriptor over a socket) reads of a connection that was reset, of an end of file, or of
a socket that there is not; torch finds its workers alive at that moment, and hands the error on.
"""

import logging
import multiprocessing.connection
import multiprocessing.queues
import multiprocessing.util
import queue
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import _base, thread
from multiprocessing.process import BaseProcess
from time import monotonic, sleep
from types import FrameType, TracebackType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data._utils.pin_memory import _pin_memory_loop

PATIENCE = 2.0  # seconds between a worker's last word and its end
LOOK = 0.01
TORCH = "DataLoader worker (pid"
PINNING_ENDED = "Pin memory thread exited unexpectedly"
VAGUE = ("exited unexpectedly", PINNING_ENDED)


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """What `loader` yields. An error that comes of a worker's death is torch's RuntimeError that names the worker, and
    how it ended; any other one is as it was, those of the thread that pins memory too."""
    _listen()
    made: Any = None
    try:
        made = iter(loader)
        yield from made
    except (OSError, EOFError) as error:
        _raise_the_death(_workers(loader, made), error)
        raise
    except RuntimeError as error:
        if any(text in str(error) for text in VAGUE):
            _raise_the_death(_workers(loader, made), error)
        pinning: Any = getattr(made, "_pin_memory_thread", None)
        if PINNING_ENDED in str(error) and pinning in _Pinning.errors:
            # Not by a local variable: it would make a cycle (error, traceback, frame) that keeps the workers.
            raise _Pinning.errors.pop(pinning) from None
        raise


def ended(processes: Sequence[BaseProcess], patience: float = 0.0) -> list[BaseProcess]:
    """Those that are no more, killed ones first; waits up to `patience` seconds for the first one."""
    until = monotonic() + patience
    while not (found := [one for one in processes if one.exitcode is not None]) and monotonic() < until:
        sleep(LOOK)
    return sorted(found, key=lambda one: one.exitcode or 0)


def death_of(process: BaseProcess) -> str:
    """How a worker ended, as torch says it."""
    code = process.exitcode or 0
    how = (
        f"is killed by signal: {signal.strsignal(-code)}. "
        if code < 0
        else f"exited unexpectedly with exit code {code}"
    )
    return f"{TORCH} {process.pid}) {how}"


def _workers(loader: DataLoader[Any], made: Any) -> list[BaseProcess]:
    # Begun again, a loader that keeps its workers can fail before it gives the iterator.
    return list(getattr(loader._iterator if made is None else made, "_workers", ()))


def _raise_the_death(workers: Sequence[BaseProcess], error: Exception) -> None:
    dead = ended(workers, PATIENCE)
    if dead:
        raise RuntimeError(death_of(dead[0])) from error


# Their functions hold locks. An error that a signal raises between a lock and the `with` that would give it back leaves
# it locked, and the next put into torch's queues, to end its workers, waits for ever: 1 of 300 deaths.
LOCKING = {logging, queue, threading, multiprocessing.queues, multiprocessing.util, _base, thread}
LOCKING_FILES = {module.__file__ for module in LOCKING}
WAITING_FILES = {multiprocessing.connection.__file__, selectors.__file__}


def _may_be_raised(frame: FrameType | None) -> bool:
    """Whether a death that is heard of at `frame` may be raised there."""
    if frame is not None and frame.f_code.co_filename in WAITING_FILES:
        return True
    if frame is not None and frame.f_code is threading.Condition.wait.__code__:
        return True
    while frame is not None and frame.f_code.co_filename not in LOCKING_FILES:
        frame = frame.f_back
    return frame is None


def _hear(number: int, frame: FrameType | None) -> None:
    """torch's handler of SIGCHLD; where it must not raise, the next batch that is asked for tells."""
    if _may_be_raised(frame):
        _Heard.by_torch(number, frame)


class _Heard:
    by_torch: Callable[[int, FrameType | None], object] = staticmethod(lambda number, frame: None)


def _listen() -> None:
    if threading.current_thread() is threading.main_thread():
        signal_handling._set_SIGCHLD_handler()
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", "") == signal_handling.__name__ and callable(handler):
            _Heard.by_torch = staticmethod(handler)
            signal.signal(signal.SIGCHLD, _hear)
    if sys.unraisablehook is not _Lost.hook:
        _Lost.before, sys.unraisablehook = sys.unraisablehook, _Lost.hook
    if threading.excepthook is not _Pinning.hook:
        _Pinning.before, threading.excepthook = threading.excepthook, _Pinning.hook


class _Lost:
    """Of the errors that fall into a destructor or a fork, where Python drops them, a worker's death is not printed:
    the next batch that is asked for names it."""

    before: Callable[[Any], object] = sys.__unraisablehook__

    @staticmethod
    def hook(args: Any) -> None:
        if not (type(args.exc_value) is RuntimeError and str(args.exc_value).startswith(TORCH)):
            _Lost.before(args)


class _Pinning:
    """The thread that pins memory ends by the error that it meets, and torch tells the trainer only that it ended."""

    before: Callable[[threading.ExceptHookArgs], object] = threading.__excepthook__
    errors: ClassVar[WeakKeyDictionary[threading.Thread, BaseException]] = WeakKeyDictionary()

    @staticmethod
    def hook(args: threading.ExceptHookArgs) -> None:
        codes = {frame.f_code for frame, _ in traceback.walk_tb(args.exc_traceback)}
        if args.thread is None or args.exc_value is None or _pin_memory_loop.__code__ not in codes:
            _Pinning.before(args)
        else:
            _Pinning.errors[args.thread] = args.exc_value.with_traceback(None)


def say_nothing_of_the_trainer() -> None:
    """For a worker: a trainer that hangs up as a worker hands something over is about to end, and says why."""
    before = sys.excepthook  # also of multiprocessing's thread that hands over

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ConnectionError | EOFError):
            before(kind, error, trace)

    sys.excepthook = hook
