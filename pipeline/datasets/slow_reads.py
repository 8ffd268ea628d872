"""Says which file holds a run up: a network drive that does not answer stops a read, and nothing else would tell."""

import os
import threading
import time
from pathlib import Path

from pipeline import signals
from pipeline.datasets.plain_files import under_way

SAY = 30.0  # seconds of a read until it is named
LOOK = 1.0
FAILED = 1


class _Watch:
    """The watch of this process. thread: None before `watch`, and in a process forked since."""

    thread: threading.Thread | None = None


def watch(limit: float, who: str = "") -> None:
    """From now on a file that takes longer than SAY seconds to be read is named on stderr, and one that takes longer
    than `limit` (0 = never) ends the process with code 1. who: this process, where it is not the trainer."""
    if _Watch.thread is None:
        _Watch.thread = threading.Thread(target=_look_after, args=(limit, who), name="slow reads", daemon=True)
        _Watch.thread.start()


def _forget() -> None:
    _Watch.thread = None


os.register_at_fork(after_in_child=_forget)


def _look_after(limit: float, who: str) -> None:
    named: set[Path] = set()
    first = min(SAY, limit or SAY)
    while True:
        time.sleep(LOOK)
        for path, seconds in under_way():
            if limit and seconds > limit:
                _say(f"error: {who}reading {path} did not end within {limit:g} s (data.read_timeout)")
                signals.end_now(FAILED)
            if seconds > first and path not in named:
                named.add(path)
                _say(f"warning: {who}reading {path} has taken {seconds:.0f} s so far")


def _say(text: str) -> None:
    os.write(2, text.encode(errors="replace") + b"\n")  # whatever lock the reader holds
