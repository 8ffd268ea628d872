"""The arrays of a teacher cache, put together from parts that may be damaged, on a disk that may be full."""

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import unwritten
from pipeline.readings import Unreadable, read_object

Mapped = np.memmap[Any, np.dtype[Any]]
BLOCK = 4096  # bytes that a file may take beyond its own
MEMBER = 512  # bytes of a zip member's names, headers and the head of its array


class DamagedPart(Exception):
    """A part cannot be used; the text says why."""


@contextlib.contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Turns an error of the system into one line (NotWritten, InputError); a missing folder is left to the caller."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        room = " (started again when there is room, it goes on)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise unwritten(f"cannot write {error.filename or folder}{room}", error) from None


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A part as written."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **dict(arrays))
    return content.getvalue()


def allocate(path: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> Mapped:
    """A new array of zeros in a file, memory-mapped, its blocks on the disk.

    Raises OSError where they do not fit: a store into a mapped page that the disk has no room for ends the process.
    """
    array: Mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # file systems that cannot
                raise
    return array


def insert(array: NDArray[Any], part: Path, name: str) -> None:
    """Rows of a part into their places. Raises DamagedPart, FileNotFoundError."""
    try:
        with np.load(part, allow_pickle=False) as there:
            index, rows = there["index"], there[name]
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything
        raise DamagedPart(" ".join(str(error).split())[:100] or type(error).__name__) from None
    if index.dtype != np.int64 or index.ndim != 1 or rows.shape != (len(index), array.shape[1]):
        raise DamagedPart(f"{name} is {rows.dtype} {rows.shape} for {index.shape} samples")
    if rows.dtype != array.dtype or (len(index) and not (index.min() >= 0 and index.max() < len(array))):
        raise DamagedPart(f"{name} is not of this cache")
    array[index] = rows


def seal(temporary: Path, target: Path) -> dict[str, object]:
    """Flushes a finished file to the disk and gives it its name: size and SHA-256 of it."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    temporary.replace(target)
    return {"bytes": target.stat().st_size, "sha256": digest}


def read_record(file: Path, names: set[str]) -> dict[str, dict[str, Any]] | None:
    """What `seal` said of these arrays, as `file` holds it; None where it is missing or damaged."""
    try:
        found = read_object(file)
    except Unreadable:
        return None
    entries = [entry if isinstance(entry, dict) else {} for entry in found.values()]
    plain = all(type(e.get("bytes")) is int and isinstance(e.get("sha256"), str) for e in entries)
    return found if plain and found.keys() == names else None
