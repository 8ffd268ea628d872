"""The arrays of a teacher cache, put together from parts that may be damaged, on a disk that may be full."""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import unwritten
from pipeline.utils.untrusted_files import Unreadable, read_object

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


def record_text(record: dict[str, dict[str, object]]) -> str:
    """What `seal` said of a view's arrays, by name, with a sum of itself."""
    return json.dumps({"files": record, "sum": _sum(record)}, sort_keys=True)


def _sum(record: object) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_record(file: Path, names: set[str], folder: Path) -> dict[str, dict[str, Any]] | None:
    """What `seal` said of the arrays `names` in `folder`, as `file` holds it; None where it, or one of them, is missing
    or not as it was. Records of earlier versions have no sum of their own: there the arrays are read."""
    try:
        found = read_object(file)
    except Unreadable:
        return None
    summed = found.keys() == {"files", "sum"}
    record = found["files"] if summed else found
    if not isinstance(record, dict) or record.keys() != names or (summed and found["sum"] != _sum(record)):
        return None
    for name, entry in record.items():
        path = folder / name
        if not isinstance(entry, dict) or not path.is_file() or path.stat().st_size != entry.get("bytes"):
            return None
        if not summed and hashlib.sha256(path.read_bytes()).hexdigest() != entry.get("sha256"):
            return None
    return record
