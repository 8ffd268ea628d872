"""How all entry points end: 0 done, 2 bad input, 75 or 128 + n stopped by signal n, 1 anything else."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from pipeline import signals
from pipeline.config import ConfigError, HelpRequested
from pipeline.contracts import InputError, NotWritten
from pipeline.process import leaving, meeting, peers
from pipeline.process import machine_errors as machine
from pipeline.process.peers import End
from pipeline.registry import UnknownName, Unregistered
from pipeline.utils.commands import as_typed
from pipeline.utils.untrusted_files import Unreadable

USER_ERROR = 2
FAILED = 1
JOIN = 2.0  # seconds that a rank that fails before the ranks have met tries to reach the others
Failures = Mapping[type[Exception], int | None]


def run(main: Callable[[list[str]], None], help_text: Callable[[], str], failures: Failures) -> NoReturn:
    """Calls main(arguments) and ends the process. failures: further exceptions that are one line and an exit code; None
    for one that is raised to the caller.

    What the machine did (memory, disk, files, workers, network) is one line and code 1; a traceback is our defect.
    """
    with signals.listening() as listener:
        if listener is not None:
            listener.entered = True
        try:
            code = _code(main, help_text, failures)
        except signals.Stopped as stopped:
            code = _stopped(stopped.number)
            if listener is not None and listener.finish is not None:
                listener.finish(stopped.number)
        except Exception:
            if listener is not None:
                listener.leave(FAILED, said=False)
            raise
        if listener is not None:
            listener.leave(code)
    leaving.at_once(code == 0 and peers.have_met())
    sys.exit(code)


def _code(main: Callable[[list[str]], None], help_text: Callable[[], str], failures: Failures) -> int:
    try:
        try:
            main(sys.argv[1:])
        except HelpRequested:
            print(as_typed(help_text()), flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # else what is left to write is a second error at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED  # whoever read what is printed has ended
    except Exception as error:
        if any(code is None and isinstance(error, kind) for kind, code in failures.items()):
            raise
        if (listener := signals.current()) is not None and listener.bounded:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises where a worker dies: one error is enough
        end, group = ending(error, failures), peers.current()
        others = group is not None and group.first_ended() is not None
        of_group = machine.is_of_group(error) or (others and (end is None or isinstance(error, meeting.NotMet)))
        defect = End(FAILED, f"{type(error).__name__}: {error}")
        if end is None and not of_group:
            if group is not None:
                group.tell(defect)
            raise
        code = _said(end or defect, of_group=of_group)
        if listener is not None:
            listener.leave(code)  # while `error` keeps the loaders: torch may wait for ever for what a dead worker held
        return code
    return 0


def ending(error: Exception, failures: Failures) -> End | None:
    """Exit code and lines of an error that is none of ours; None for a defect."""
    if (death := machine.worker_death(error)) is not None:
        return End(FAILED, f"error: {death}")
    if isinstance(error, ConfigError):
        return End(USER_ERROR, "\n".join(f"error: {problem}" for problem in error.problems))
    if isinstance(error, InputError | UnknownName | Unregistered | Unreadable):
        return End(USER_ERROR, f"error: {error.args[0]}")
    if isinstance(error, NotWritten | meeting.NotMet):
        return End(FAILED, f"error: {error}")
    for kind, code in failures.items():
        if code is not None and isinstance(error, kind):
            return End(code, f"{type(error).__name__}: {error}")
    if machine.is_of_group(error):
        return End(FAILED, f"error: another rank cannot be reached: {machine.of_group_text(error)}")
    found = machine.known(error)
    return None if found is None else End(FAILED, f"error: {found}")


def _said(end: End, *, of_group: bool = False) -> int:
    """Says why this rank ends, unless rank 0 says the same, or another rank has said why; returns the exit code."""
    sys.unraisablehook = _silent  # what half-made workers say as they are taken apart
    if peers.current() is None:
        meeting.join_to_tell(JOIN)
    group = peers.current()
    if group is None:
        # Before the ranks have met. What a command line or a file says wrong is said once on each machine.
        if peers.first_on_its_node() or end.code == FAILED:
            _print_of_rank(peers.this_rank(), end)
        return end.code
    if of_group and (found := group.wait_for_a_reason()):
        rank, other = found
        if group.rank == 0:
            _print(f"error: rank {rank} ended with code {other.code}, and so does this run")
            group.tell(End(other.code, ""))
        group.leave()
        return other.code
    group.tell(end)
    if group.rank == 0:
        _print(end.text)
    elif group.is_new(end):
        _print_of_rank(group.rank, end)
    group.leave()
    return end.code


def _print(text: str) -> None:
    sys.stdout.flush()
    print(as_typed(text), file=sys.stderr, flush=True)


def _print_of_rank(rank: int, end: End) -> None:
    _print("\n".join(f"rank {rank}: {line}" if rank else line for line in end.text.splitlines()))


def _silent(args: object) -> None:
    pass


def _stopped(number: int) -> int:
    listener = signals.current()
    rest = signals.ANEW if listener is None else listener.rest
    code = signals.SIGNALLED + number if listener is None else listener.exit_code(number)
    return _said(End(code, f"{signals.name_of(number)}: stopped, {rest}"))
