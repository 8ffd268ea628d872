"""The harness tells faults from refusals."""

import os
import signal
import time

from fuzzing import Verdict, judge

from pipeline.contracts import InputError


def _try(case: str) -> None:
    if case == "refuse":
        raise InputError("no")
    if case == "raise":
        raise KeyError("x")
    if case == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "sleep":
        time.sleep(60)
    if case == "grow":
        bytearray(2**30)
    if case == "exit":
        raise SystemExit(1)


def test_every_kind_of_end() -> None:
    cases = ["fine", "refuse", "raise", "die", "fine", "sleep", "grow", "exit", "fine"]
    kinds = [verdict.kind for verdict in judge(cases, _try, seconds=1, memory_mb=256)]
    assert kinds == [
        *("accepted", "refused", "traceback", "died", "accepted", "hang", "traceback", "traceback", "accepted")
    ]
    assert "KeyError" in judge(["raise"], _try)[0].detail
    assert isinstance(judge(["fine"], _try)[0], Verdict)
