"""Plain files, opened so that none can hold a run up: no FIFO, no device, and `under_way` tells which are being read.

A FIFO waits for a writer, /dev/zero never ends, and a network drive may not answer: whoever watches over a run asks
`under_way` for the name to tell.
"""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.contracts import InputError

LARGEST = 1 << 30  # bytes of an image file: more is no image, and would be read into memory at once
# What a file that is not there gives; any other OSError (a network drive, too many open files) is the machine's.
ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_since: dict[int, tuple[Path, float]] = {}  # by thread
os.register_at_fork(after_in_child=_since.clear)


class Reading(NamedTuple):
    """A file that a thread of this process has been reading or decoding for so many seconds."""

    path: Path
    seconds: float


def under_way() -> list[Reading]:
    """What is being read now, the longest first."""
    now = time.monotonic()
    found = [Reading(path, now - since) for path, since in list(_since.values())]
    return sorted(found, key=lambda reading: -reading.seconds)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside, `under_way` of this thread is `path`."""
    me = threading.get_ident()
    _since[me] = path, time.monotonic()
    try:
        yield
    finally:
        _since.pop(me, None)


def being_read() -> Path | None:
    """What this thread is reading."""
    return _since.get(threading.get_ident(), (None, 0.0))[0]


def kind_of(mode: int) -> str | None:
    """What a file that is neither plain nor a folder is, by its st_mode."""
    return KINDS.get(stat.S_IFMT(mode))


def check_plain(path: Path, largest: int | None = LARGEST) -> None:
    """Before a file is opened: that alone can wait, or make a device act.

    Raises InputError where `path`, or what its links lead to, is neither plain nor a folder, or has more than `largest`
    bytes; OSError.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise InputError(f"it is no plain file, but {kind_of(found.st_mode) or 'something else'}")
    if largest is not None and found.st_size > largest:
        raise InputError(f"it has {found.st_size / 1e9:.3g} GB, and at most {largest / 1e9:.3g} are read")


def open_plain(path: Path) -> BinaryIO:
    """A plain file, open. Raises as `check_plain`, and OSError."""
    check_plain(path)
    return path.open("rb")


def read_plain(path: Path) -> bytes:
    """The content of a plain file. Raises as `check_plain`, and OSError."""
    check_plain(path)
    return path.read_bytes()
