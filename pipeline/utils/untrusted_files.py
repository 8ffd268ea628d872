"""Small files that others may have written or damaged: read with limits, refused in one line.

A leaf. Files of others are data: no size, nesting, number or encoding of theirs costs more than a moment.
"""

import json
import math
import stat
from pathlib import Path
from typing import Any, NoReturn

LARGEST = 64 << 20  # bytes of a file; a record of 20,000 epochs has 20 MB
DEPTH = 64  # levels of nesting; ours have 6
DIGITS = 19  # of a whole number: what 64 bits hold


class Unreadable(ValueError):
    """A file cannot be used; the text is one line that begins with its path."""


def read_bytes(path: Path, limit: int = LARGEST) -> bytes:
    """The content of a plain file. Raises Unreadable: missing, no plain file (folder, FIFO, device), too large."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(f"{path} is a folder" if stat.S_ISDIR(found.st_mode) else f"{path} is no plain file")
        if found.st_size > limit:
            raise Unreadable(f"{path} is too large for what it should be: {found.st_size:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise error if isinstance(error, Unreadable) else Unreadable(f"cannot read {str(path)!r}: {error}") from None


def read_text(path: Path, limit: int = LARGEST) -> str:
    """A UTF-8 file, without its byte order mark. Raises Unreadable."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is not UTF-8 text") from None


def read_json(path: Path, *, finite: bool = True, limit: int = LARGEST) -> Any:
    """The JSON of a file; see parse_json. Raises Unreadable."""
    return parse_json(read_text(path, limit), str(path), finite=finite)


def read_object(path: Path, *, finite: bool = True, limit: int = LARGEST) -> dict[str, Any]:
    """The JSON object of a file. Raises Unreadable, also for other JSON."""
    found = read_json(path, finite=finite, limit=limit)
    if not isinstance(found, dict):
        raise Unreadable(f"{path} is damaged: no JSON object")
    return found


def parse_json(text: str | bytes, source: str, *, finite: bool = True) -> Any:
    """JSON of at most DEPTH levels, whole numbers of at most DIGITS digits, and strings that can be printed.

    source: names it in errors. finite: refuse NaN, Infinity and 1e999 (metrics may hold them). Raises Unreadable.
    """

    def whole(digits: str) -> int:
        if len(digits) > DIGITS + 1:
            raise Unreadable(f"{source} is damaged: a number of {len(digits)} digits")
        return int(digits)

    def fraction(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) or not finite else constant(digits)

    def constant(word: str) -> Any:
        return float(word) if not finite else _refuse(source, f"the number {word[:20]}")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        found = json.loads(text, parse_int=whole, parse_float=fraction, parse_constant=constant)
    except Unreadable:
        raise
    except UnicodeDecodeError:
        _refuse(source, "not UTF-8 text")
    except RecursionError:
        _refuse(source, "nested too deeply")
    except ValueError as error:
        _refuse(source, f"JSONDecodeError: {error}")
    if text.count("[") + text.count("{") > DEPTH or "\\u" in text:
        _check(found, source)
    return found


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole records of a file of one JSON object a line, [] where there is none.

    Lines that are no object are left out: a writer is inside the last one, or was killed there. Raises Unreadable for
    what is no text file.
    """
    found = []
    for line in _lines(path):
        try:
            record = parse_json(line, str(path), finite=False)
        except Unreadable:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _lines(path: Path) -> list[bytes]:
    return read_bytes(path).splitlines() if path.exists() else []


def _refuse(source: str, reason: str) -> NoReturn:
    raise Unreadable(f"{source} is damaged: {reason}")


def _check(found: Any, source: str) -> None:
    """Refuses what is nested more deeply than DEPTH, and halves of characters, which cannot be printed."""
    level = [found]
    for _ in range(DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += [*one, *one.values()]
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str) and not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError:
                    _refuse(source, "text that is no Unicode")
        if not below:
            return
        level = below
    _refuse(source, "nested too deeply")
