"""Text tables that people have: UTF-8, with a byte order mark or without, lines of any kind of end."""

from pathlib import Path

from pipeline.contracts import InputError
from pipeline.utils import untrusted_files

MARK = "\ufeff"  # byte order mark; inside a file where tables were joined
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_table(path: Path) -> str:
    """The text of a table. Raises InputError, one line: not there, no plain file, too large, UTF-16 or no text."""
    try:
        data = untrusted_files.read_bytes(path)
    except untrusted_files.Unreadable as error:
        raise InputError(str(error)) from None
    if data.startswith(UTF_16):
        raise InputError(f"{path} is text in UTF-16: save it as UTF-8")
    if b"\0" in data:
        raise InputError(f"{path} is no text: it holds zero bytes")
    return data.decode(errors="replace").replace(MARK, "")
