"""Files of named arrays as np.savez writes them: not compressed, no pickles. Damage of any kind is one line."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets.plain_files import check_plain

LARGEST = 8 << 30  # bytes of a file; an index of 1.28 million files has 64 MB
ENCRYPTED = 1  # bit of a zip member's flags


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file. Raises InputError that says what is wrong, without the path."""
    try:
        check_plain(path, LARGEST)
        with path.open("rb") as handle:
            _check_members(handle, path.stat().st_size)
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
    except InputError:
        raise
    # zipfile and NumPy raise nearly anything: RuntimeError (encrypted), NotImplementedError (compression, version),
    # tokenize.TokenError and RecursionError (headers), MemoryError (shapes), struct.error, KeyError, ...
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(reason) from None


def _check_members(handle: Any, size: int) -> None:
    """No member takes more memory than the file has bytes."""
    with zipfile.ZipFile(handle) as packed:
        members = packed.infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise InputError("an array comes twice")
    for member in members:
        if member.flag_bits & ENCRYPTED or member.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{member.filename[:40]!r} is compressed or encrypted")
    if sum(member.file_size for member in members) > size:
        raise InputError("arrays larger than the file")
