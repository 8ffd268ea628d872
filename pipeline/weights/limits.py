"""What a weight file may cost: memory, time and room on the disk, before any of them is spent."""

import contextlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import _weights_only_unpickler as unpickler

TIMES = 20  # what torch.save writes is not compressed at all; weights that somebody zips shrink by a tenth
SLACK = 64 << 20  # bytes
RECORD = 32 << 20  # bytes of the pickle of names and numbers; of 100,000 tensors it has 15 MB
LATIN = ("latin1", "latin-1")
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes


class Bomb(Exception):
    """A file would cost more than any checkpoint; the text says what."""


def check_size(file: Path) -> None:
    """Raises Bomb for what cannot be held in memory at all. OSError."""
    size = file.stat().st_size
    if size > MEMORY:
        raise Bomb(f"has {size:,} bytes, this machine's memory {MEMORY:,}")


def check_zip(archive: zipfile.ZipFile, size: int) -> None:
    """Raises Bomb where the entries of a file of `size` bytes are much larger unpacked."""
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > TIMES * size + SLACK:
        raise Bomb(f"would unpack to {unpacked:,} bytes")
    records = [entry.file_size for entry in entries if entry.filename.endswith(".pkl")]
    if max(records, default=0) > RECORD:
        raise Bomb(f"holds {max(records):,} bytes of names and numbers")


def check_tar(file: Path) -> None:
    """Raises Bomb for a tar file (of torch before 0.2, which torch.load unpacks into a folder) with other than plain
    entries: opening a FIFO waits for ever, a link leads elsewhere, a sparse entry has any size."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(file, "r:"))
        except (tarfile.TarError, ValueError, OverflowError):
            return  # no tar file
        for entry in archive:
            if not entry.isreg() or entry.issparse():
                raise Bomb(f"is no checkpoint (its entry {entry.name[:40]!r} is no plain file)")


@contextlib.contextmanager
def sober() -> Iterator[None]:
    """In here torch's reader of pickles makes no large object of a few bytes: it allows bytearray(10**12), and
    encoding a text as `hex` again and again."""
    allowed = unpickler._get_allowed_globals()
    others: dict[str, Callable[..., Any]] = {"_codecs.encode": _encode, "builtins.bytearray": _bytearray}
    before = {name: allowed[name] for name in others if name in allowed}
    allowed.update({name: others[name] for name in before})
    try:
        yield
    finally:
        allowed.update(before)


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in LATIN:
        raise Bomb(f"makes bytes by the codec {str(codec)[:40]!r}")
    return text.encode("latin1")


def _bytearray(*arguments: Any) -> bytearray:
    if any(isinstance(one, int) for one in arguments):
        raise Bomb("makes an array of bytes of a number")
    return bytearray(*arguments)
