"""Reads pickles of arrays and plain containers, and nothing else: archives of others must not run code.

The names that NumPy's own pickles use are answered with the small stand-ins below, never with NumPy's functions, so
that no C code of NumPy sees the states and sizes a hostile file may hold. Written from the opcodes that NumPy 1 and 2
emit in protocols 0 to 5 (`pickletools.dis`); Python 2 files are read with latin-1, as all readers of CIFAR do.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets.plain_files import check_plain

PLAIN_DTYPE = re.compile(r"[<>|=]?([biufc]\d{1,2}|[SU]\d{1,6})")
OS_MODULES = {"posix": "os", "nt": "os"}  # what os.system calls itself in a pickle


class _Dtype:
    """Stand-in for numpy.dtype: a type code, then its byte order as state."""

    def __init__(self, code: str, *flags: bool) -> None:
        if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"array of type {code!r} is refused: only plain numbers and fixed-width strings are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise ValueError("structured arrays are refused")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for numpy.ndarray: filled by its state, read with `value`."""

    def __init__(self, *ignored: Any) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        self.value = _shaped(raw, dtype, shape, "F" if fortran else "C")


def _shaped(raw: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise ValueError("an array that is not made of plain bytes and a plain type is refused")
    return np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: str, axis_order: Any = None) -> _Array:
    """Protocol 5: the bytes, then how they lie."""
    array = _Array()
    value = _shaped(raw, dtype, shape, order)
    array.value = value if axis_order is None or order != "K" else value.transpose(axis_order)
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    """A number or a string of NumPy's, as Python's own."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return _shaped(raw, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocols 0 to 2 spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"_codecs.encode to {encoding!r} is refused")
    return text.encode("latin1")


class _Name:
    """An allowed name: can be called, or passed as an argument, and nothing else.

    BUILD on a class or a function would set attributes on it that outlive the file; here it is refused.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("a pickle that changes a function is refused")


ALLOWED = {
    ("numpy", "ndarray"): _Name(_Array),
    ("numpy", "dtype"): _Name(_Dtype),
    ("_codecs", "encode"): _Name(_encode),
    ("numpy.core.multiarray", "_reconstruct"): _Name(_Array),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_Array),
    ("numpy.core.multiarray", "scalar"): _Name(_scalar),
    ("numpy._core.multiarray", "scalar"): _Name(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Name(_frombuffer),
    ("numpy._core.numeric", "_frombuffer"): _Name(_frombuffer),
}


# Python's own unpickler, not the compiled one: that takes and clears memory for the numbers a file gives its objects,
# 34 GB for a file of ten bytes. A batch of CIFAR takes 60 ms instead of 5.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = ALLOWED.get((module, name))
        if allowed is None:
            raise InputError(f"wants to run {OS_MODULES.get(module, module)}.{name}: refused")
        return allowed


class _Plain:
    """What was read with stand-ins replaced by arrays and names (keys) as str, each object once however often it is
    held: 60 lists, each twice the one before, are 60 lists. Raises ValueError on anything not plain."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._inside: set[int] = set()

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, str | bytes | bytearray | bool | int | float):
            return value
        if isinstance(value, _Array) and value.value is not None:
            return value.value
        if not isinstance(value, dict | list | tuple):
            kind = type(value).__name__.lstrip("_")
            raise ValueError(f"holds a {kind}, which is neither an array nor a plain container")
        key = id(value)  # what was read lives as long as this does
        if key in self._inside:
            raise ValueError("holds a container inside itself: recursion")
        if key not in self._made:
            self._inside.add(key)
            self._made[key] = self._container(value)
            self._inside.remove(key)
        return self._made[key]

    def _container(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key.decode("latin1") if isinstance(key, bytes) else key: self(v) for key, v in value.items()}
        return type(value)(self(v) for v in value)


def load(path: Path) -> Any:
    """The content of a pickle file: dicts (bytes keys as str), lists, tuples, numbers, strings, arrays (read-only).

    Numbers of NumPy come as Python's. Raises InputError, one line with the path, when the file is missing, no plain
    file, truncated, not a pickle, too large, or wants more.
    """
    try:
        check_plain(path)
        return _Plain()(_Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except Exception as error:  # a damaged pickle can raise nearly anything: EOFError, KeyError, MemoryError, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} cannot be read as a pickle of arrays: {reason}") from None
