"""Files from a web server: resumed where they broke off, checked, whole or not there.

What has come lies beside the target as `.<name>.part`, with a note (`.<name>.part.json`) on what it is a part of. It is
gone on with when the server still offers the very same file: its ETag or date (If-Range), or its length where it names
neither. A server that cannot send a part of a file sends all of it again.
"""

import contextlib
import fcntl
import http
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.contracts import InputError
from pipeline.utils import untrusted_files

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30.0
PAUSE_SECONDS = 1.0  # before a broken download is gone on with
ATTEMPTS = 20  # each must bring something, or it is the last
NO_SUCH_RANGE = 416

Told = Callable[[int, int | None], None]


def _untold(done: int, total: int | None) -> None:
    pass


def fetch(url: str, target: Path, *, check: Callable[[Path], None], told: Told = _untold) -> Path:
    """The file at `url` as `target`, which is returned. What a former call left half done is gone on with.

    check: raises InputError when the file is not the wanted one; it is then deleted. told: called with the bytes that
    have come and the bytes of the file (None: unknown). Raises InputError, one line.
    """
    part = target.with_name(f".{target.name}.part")
    note = part.with_name(f"{part.name}.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part) as handle:
            _bring(url, handle, note, told)
            _checked(part, note, check)
            part.replace(target)
            note.unlink(missing_ok=True)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
        kept = "what has come is kept, call again to go on" if part.exists() else f"put {target.name} there by hand"
        raise InputError(f"could not fetch {url} into {target.parent}: {_reason(error)}; {kept}") from None
    return target


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """`part`, open for writing by this process alone. Nothing is left behind when nothing has come."""
    with part.open("ab") as handle:
        if not _locked(handle) or not _still_there(part, handle):
            raise InputError(f"{part} is being written by another process: wait for it")
        try:
            yield handle
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
                part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _locked(handle: BinaryIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _still_there(part: Path, handle: BinaryIO) -> bool:
    """False when another process has finished, and renamed the file, between our opening and our locking it."""
    try:
        return os.path.samestat(part.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def _bring(url: str, handle: BinaryIO, note: Path, told: Told) -> None:
    """Goes on until all has come. Raises OSError or HTTPException when an attempt brought nothing."""
    for attempt in range(ATTEMPTS):
        before = _size(handle)
        try:
            _receive(url, handle, note, told)
            os.fsync(handle.fileno())
            return
        except (OSError, http.client.HTTPException):
            if _size(handle) <= before or attempt + 1 == ATTEMPTS:
                raise
        time.sleep(PAUSE_SECONDS)


def _size(handle: BinaryIO) -> int:
    return os.fstat(handle.fileno()).st_size


def _checked(part: Path, note: Path, check: Callable[[Path], None]) -> None:
    try:
        check(part)
    except BaseException:
        part.unlink()
        note.unlink(missing_ok=True)
        raise


def _receive(url: str, handle: BinaryIO, note: Path, told: Told) -> None:
    """One request: the rest of the file where that is possible, else the file from its beginning."""
    known = _read_note(note, url)
    if known and _size(handle) == known["total"]:
        return
    with _rest(url, _size(handle), known) or _open(url, {}) as reply:
        if reply.status == http.HTTPStatus.PARTIAL_CONTENT:
            total = known["total"]
        else:
            handle.truncate(0)
            total = int(reply.headers["Content-Length"]) if reply.headers["Content-Length"] else None
            note.write_text(json.dumps({"url": url, "total": total, "validator": _validator(reply)}))
        _copy(reply, handle, total, told)


def _read_note(note: Path, url: str) -> dict[str, Any]:
    """What is known of the file that a part belongs to; {} when it is of another address, or cannot be gone on with."""
    try:
        known = untrusted_files.read_object(note)
    except untrusted_files.Unreadable:
        return {}
    validator = known.get("validator")
    told = validator is None or (isinstance(validator, str) and validator.isprintable() and validator.isascii())
    whole = type(known.get("total")) is int
    return {**known, "validator": validator} if known.get("url") == url and whole and told else {}


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)


def _rest(url: str, have: int, known: dict[str, Any]) -> Any:
    """The server's reply to a request for the bytes from `have` on; None when they would not fit what is there."""
    if not have or not known:
        return None
    condition = {"If-Range": known["validator"]} if known["validator"] else {}
    try:
        reply = _open(url, {"Range": f"bytes={have}-", **condition})
    except urllib.error.HTTPError as error:
        if error.code == NO_SUCH_RANGE:
            return None
        raise
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers["Content-Range"] or "")
    fits = span is not None and (int(span[1]), int(span[2])) == (have, known["total"])
    if reply.status == http.HTTPStatus.PARTIAL_CONTENT and not fits:
        reply.close()
        return None
    return reply


def _validator(reply: Any) -> str | None:
    """What If-Range may name: a strong ETag, else the date of the file."""
    tag = reply.headers["ETag"]
    return tag if tag and not tag.startswith("W/") else reply.headers["Last-Modified"]


def _copy(reply: Any, handle: BinaryIO, total: int | None, told: Told) -> None:
    done = _size(handle)
    while chunk := reply.read(CHUNK):
        handle.write(chunk)
        handle.flush()
        done += len(chunk)
        told(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
