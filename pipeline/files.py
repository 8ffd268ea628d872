"""Files that are either whole or not there."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def whole_or_absent(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` under a temporary name, flushed to the disk and renamed to `path` when all went well.

    On any error the temporary file is removed and whatever stood at `path` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """`content` at `path`, or nothing; see whole_or_absent."""
    with whole_or_absent(path) as handle:
        handle.write(content)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8, atomically."""
    write_atomically(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")
