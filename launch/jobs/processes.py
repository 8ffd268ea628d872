"""Processes of this machine, told apart from later ones of the same number."""

import os
from pathlib import Path

from pipeline.config.base import Section


class Process(Section):
    """One process. started: clock ticks after the machine's start, so that a number that is used again is another."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Whether it still runs."""
        return started(self.pid) == self.started


def started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None for no process or a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def this_process() -> Process:
    """The caller."""
    return Process(pid=os.getpid(), started=started(os.getpid()) or 0)


def runs_with(pid: int, word: str) -> bool:
    """Whether process `pid` lives and has `word` in its command line."""
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for a dead one nobody waited for
    except OSError:
        return False
