"""Lines on stderr that are no errors."""

import contextlib
import functools
import os
import sys


def note(text: str) -> None:
    """A line of what every rank sees: the first one says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr, flush=True)


note_once = functools.cache(note)


class Once:
    """Says one line, whichever forked worker is the first to have something to say; every rank says its own."""

    def __init__(self) -> None:
        self._open = True
        # A counter in the kernel that holds one: whoever takes it speaks. Forked processes share it.
        self._token = -1
        with contextlib.suppress(OSError):
            self._token = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def say(self, text: str) -> None:
        """The line, if it is the first."""
        if not self._open:
            return
        self._open = False
        if self._token >= 0:
            try:
                os.eventfd_read(self._token)
            except OSError:
                return
        rank = os.environ.get("RANK", "0")
        print(f"note: {f'rank {rank}: ' if rank != '0' else ''}{text}", file=sys.stderr, flush=True)
