"""Paths of a million files in a few arrays: 36 MB for ImageNet's, where a tuple of str takes 120 MB.

No Python object exists per path, so nothing is written to (reference counts) when forked workers read it: they share
these pages with the trainer for good.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

SLICE = 4096  # paths made at once when all are wanted
SLASH = ord("/")


class PathTable(Sequence[str]):
    """Paths with forward slashes, as a sequence of str. Each is a folder ('' = none), a slash and a name.

    folders: all of them, once; folder_N: int32, which one; name_bytes: uint8, all names on end; stop_N: int64, where
    each ends. Raises ValueError when these do not fit together (they may come from a damaged file).
    """

    def __init__(
        self,
        folders: Iterable[str],
        folder_N: NDArray[np.int32],
        name_bytes: NDArray[np.uint8],
        stop_N: NDArray[np.int64],
    ) -> None:
        self.folders = tuple(folders)
        self.folder_N, self.name_bytes, self.stop_N = folder_N, name_bytes, stop_N
        outside = any(folder.startswith("/") or ".." in folder.split("/") for folder in self.folders)
        if outside or (name_bytes == SLASH).any():
            raise ValueError("a path leads out of the data set")
        if len(folder_N) != len(stop_N) or (len(stop_N) and not self._fits()):
            raise ValueError("a table of paths that does not fit together")

    def _fits(self) -> bool:
        length_N = np.diff(self.stop_N, prepend=0)
        known = int(self.folder_N.min()) >= 0 and int(self.folder_N.max()) < len(self.folders)
        return known and int(length_N.min()) > 0 and int(self.stop_N[-1]) == len(self.name_bytes)

    @classmethod
    def pack(cls, groups: Iterable[tuple[str, Sequence[str]]]) -> "PathTable":
        """From (folder, names in it), in order; a folder may come more than once."""
        number: dict[str, int] = {}
        packed, lengths, belongs = bytearray(), [], []
        for folder, names in groups:
            encoded = [os.fsencode(name) for name in names]
            packed += b"".join(encoded)
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            belongs.append(np.full(len(encoded), number.setdefault(folder, len(number)), np.int32))
        stop_N = np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))
        folder_N = np.concatenate([np.empty(0, np.int32), *belongs])
        return cls(number, folder_N, np.frombuffer(bytes(packed), np.uint8), stop_N)

    def __len__(self) -> int:
        return len(self.stop_N)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start = int(self.stop_N[at - 1]) if at else 0
        name = os.fsdecode(self.name_bytes[start : int(self.stop_N[at])].tobytes())
        return self._joined(int(self.folder_N[at]), name)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), SLICE):
            start = int(self.stop_N[first - 1]) if first else 0
            stops = [start, *self.stop_N[first : first + SLICE].tolist()]
            packed = self.name_bytes[start : stops[-1]].tobytes()
            folders = self.folder_N[first : first + SLICE].tolist()
            for folder, (low, high) in zip(folders, pairwise(stops), strict=True):
                yield self._joined(folder, os.fsdecode(packed[low - start : high - start]))

    def _joined(self, folder: int, name: str) -> str:
        above = self.folders[folder]
        return f"{above}/{name}" if above else name
