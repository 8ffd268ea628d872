"""Files that are either whole or not there, whoever is killed while writing them and however full the disk is."""

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

# What a disk says that refuses a file, as opposed to a path that is wrong: exit code 1, not 2.
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}
MARK = "by-"  # before the machine in the name of an unfinished file
LEFT_SECONDS = 3600.0
ATTEMPTS = 1000


def disk_refuses(error: OSError) -> bool:
    """Whether the disk is full, over quota, broken or read-only; else the path is what is wrong."""
    return error.errno in REFUSALS


def refusal(error: OSError) -> str:
    """What is wrong, with the file where it is known, in one line."""
    return f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


def unfinished(path: Path, number: int = 0) -> Path:
    """The name under which this machine writes what is to become `path`; number: of writers at the same time."""
    host = re.sub(r"[^\w-]", "-", os.uname().nodename)
    return path.with_name(f".{path.name}.{MARK}{host}{f'-{number}' if number else ''}.tmp")


@contextlib.contextmanager
def whole_or_absent(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file beside `path` under a temporary name, flushed to the disk and renamed to `path` when all went well.

    On any error the temporary file is removed and whatever stood at `path` stays; an OSError names `path`. What a
    killed writer left is taken over, or removed, by the next writer of `path`: names hold no process, and a lock says
    who is alive. Locks may not reach other machines: what these left counts as left when it is an hour old. durable:
    outlives a power cut, too.
    """
    try:
        if durable:
            _sweep(path)
        temporary, handle = _begin(path)
        try:
            with handle:
                yield handle
                handle.flush()
                if durable:
                    os.fsync(handle.fileno())
                temporary.replace(path)  # under the lock: nobody takes over what is about to be renamed
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if durable:
            _sweep(path)
            sync_folder(path.parent)
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(path.with_name(f".{path.name}."))):
            error.filename, error.filename2 = str(path), None
        raise


def _begin(path: Path) -> tuple[Path, BinaryIO]:
    """The first temporary name that no living writer holds, emptied and locked by this process."""
    number = 0
    for _ in range(ATTEMPTS):
        temporary = unfinished(path, number)
        handle = open(temporary, "w+b", opener=_keeping)  # noqa: SIM115
        held = take(handle.fileno())
        if (held and _is_at(handle, temporary)) or (held is None and number):
            handle.truncate(0)
            return temporary, handle
        handle.close()
        if held is None:
            temporary.unlink(missing_ok=True)
            number = os.getpid()  # without locks only a name of its own is safe
        elif not held:
            number += 1  # else it was renamed or removed between the two calls: the name is free again
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _keeping(path: str, flags: int) -> int:
    """Opens without emptying: the file may be another writer's."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _sweep(path: Path) -> None:
    """Removes what killed writers of `path` have left."""
    own = re.escape(unfinished(path).name.removesuffix(".tmp"))
    ours = re.compile(rf"{own}(-\d+)?\.tmp")
    others = re.compile(rf"\.{re.escape(path.name)}\.(\d+|{MARK}[\w-]+)\.tmp")  # digits: earlier versions
    with os.scandir(path.parent) as entries:
        found = [entry for entry in entries if others.fullmatch(entry.name)]
    for entry in found:
        with contextlib.suppress(OSError):
            fresh = time.time() - entry.stat(follow_symlinks=False).st_mtime < LEFT_SECONDS
            if entry.is_file(follow_symlinks=False) and (ours.fullmatch(entry.name) or not fresh):
                _remove_if_left(Path(entry.path))


def _remove_if_left(leftover: Path) -> None:
    with leftover.open("rb") as handle:
        if take(handle.fileno()) and _is_at(handle, leftover):
            leftover.unlink()  # without locks it stays


def take(handle: int) -> bool | None:
    """Locks an open file or folder; False where a living process holds it, None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(handle: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


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


def put_aside(path: Path) -> Path:
    """Renames a file to <name>.old-N, the first N that is free. Returns the new name. Raises OSError."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.old-{number}")):
        number += 1
    path.rename(aside)
    return aside
