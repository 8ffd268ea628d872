"""What torch.load may make of a pickle besides what torch itself allows: nothing that runs code of a file."""

import argparse
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
BYTE_ORDERS = ("<", ">", "|", "=")


class _NumberType:
    """Stands for numpy.dtype: the real one changes types that NumPy shares, when a file tells it to."""

    def __init__(self, kind: str, *_: bool) -> None:
        if kind not in NUMBERS:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype[{kind!r}]")
        self.kind, self.order = kind, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in BYTE_ORDERS:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype with byte order {state[1]!r}")
        self.order = state[1]


def _number(of: _NumberType, content: bytes) -> float:
    """Stands for NumPy's scalar."""
    value: float = np.frombuffer(content, dtype=of.order + of.kind, count=1)[0].item()
    return value


# Names are those in the file; NumPy 2 renamed the module of `scalar`.
ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]
