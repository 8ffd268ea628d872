"""Cases that are tried in child processes: each is accepted, refused in one line, or a fault of ours.

A child takes one case after another and says which one it is at; when it dies or does not come back, that case is to
blame and the next child goes on behind it. Nothing of a case survives it in the parent.
"""

import contextlib
import io
import os
import pickle
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from pipeline import cli
from pipeline.config import ConfigError, HelpRequested
from pipeline.contracts import InputError
from pipeline.registry import UnknownName
from pipeline.utils.untrusted_files import Unreadable

T = TypeVar("T")
REFUSALS: tuple[type[BaseException], ...] = (InputError, ConfigError, UnknownName, Unreadable, HelpRequested)
FAULTS = ("traceback", "hang", "died")


@dataclass(frozen=True)
class Verdict:
    """What became of a case: accepted, refused, traceback, hang or died. detail: the line, or the traceback's end."""

    case: str
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.case[:300]}\n    {self.detail[-1500:]}"


def judge(
    cases: Sequence[T],
    run: Callable[[T], object],
    *,
    refusals: tuple[type[BaseException], ...] = REFUSALS,
    seconds: float = 60,
    memory_mb: int | None = None,
) -> list[Verdict]:
    """A verdict for each case. run: tries one; it may raise `refusals`, or SystemExit with code 0 or 2.

    seconds: that one case may take; memory_mb: address space that the child may take besides what it has. torch must
    have one thread (as the suite's conftest says): other threads do not survive a fork.
    """
    verdicts: list[Verdict] = []
    while len(verdicts) < len(cases):
        verdicts += _child(cases[len(verdicts) :], run, refusals, seconds, memory_mb)
    return verdicts


def assert_no_faults(verdicts: Sequence[Verdict], least_refused: int = 1) -> None:
    """No tracebacks, hangs and deaths, and at least so many refusals: fewer, and the cases miss what they are for."""
    counts = Counter(verdict.kind for verdict in verdicts)
    print(f"{len(verdicts)} cases: {dict(counts)}")
    faults = [str(verdict) for verdict in verdicts if verdict.kind in FAULTS]
    assert not faults, f"{len(faults)} of {len(verdicts)}:\n" + "\n".join(faults[:10])
    assert counts["refused"] >= least_refused, dict(counts)


def command(module: ModuleType, words: Sequence[str]) -> None:
    """`python module words`, for `run`: ends with SystemExit; refusals without one line of their own are a fault."""
    sys.argv = [module.__name__, *words]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            cli.run(module.main, module.help_text, getattr(module, "FAILURES", {}))
    except SystemExit as ended:
        if ended.code == 2:
            lines = said.getvalue().strip().splitlines()
            assert lines and any(line.startswith("error: ") for line in lines), f"exit code 2, but said: {lines[-3:]}"
            raise InputError(lines[-1]) from None
        assert not ended.code, f"exit code {ended.code}: {said.getvalue()[-1000:]}"


def flipped(content: bytes, rng: random.Random, bits: int = 1) -> bytes:
    """`content` with so many bits turned."""
    changed = bytearray(content)
    for _ in range(bits):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """The first part of `content`."""
    return content[: rng.randrange(len(content))]


def _child(
    cases: Sequence[T],
    run: Callable[[T], object],
    refusals: tuple[type[BaseException], ...],
    seconds: float,
    memory_mb: int | None,
) -> list[Verdict]:
    """Verdicts of the first cases, up to the first that the child does not survive."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _serve(cases, run, refusals, writer, memory_mb)
        finally:
            os._exit(0)
    os.close(writer)
    verdicts: list[Verdict] = []
    try:
        with os.fdopen(reader, "rb") as told:
            for case in cases:
                ready, _, _ = select.select([told], [], [], seconds)
                if not ready:
                    return [*verdicts, Verdict(repr(case), "hang", f"over {seconds} s")]
                try:
                    kind, detail = pickle.load(told)
                except EOFError:
                    return [*verdicts, Verdict(repr(case), "died", "the process ended")]
                verdicts.append(Verdict(repr(case), kind, detail))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return verdicts


def _serve(
    cases: Sequence[T],
    run: Callable[[T], object],
    refusals: tuple[type[BaseException], ...],
    writer: int,
    memory_mb: int | None,
) -> None:
    """In the child: tells a verdict for each case as soon as it is there."""
    if memory_mb is not None:
        with open("/proc/self/statm") as statm:  # noqa: PTH123
            present = int(statm.read().split()[0]) * resource.getpagesize()
        limit = present + memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for case in cases:
        started = time.monotonic()
        kind, detail = "accepted", ""
        try:
            run(case)
        except refusals as error:
            kind, detail = "refused", str(error)
        except SystemExit as error:
            kind, detail = ("refused" if error.code == 2 else "accepted"), str(error.code)
            if error.code not in (0, None, 2):
                kind = "traceback"
        except BaseException:
            kind, detail = "traceback", traceback.format_exc()
        detail = detail or f"{time.monotonic() - started:.2f} s"
        os.write(writer, pickle.dumps((kind, detail[-3000:])))
