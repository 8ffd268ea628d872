"""The one shape that all data sets have."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets import decode
from pipeline.datasets.encoded import as_read_by_all, check

T = TypeVar("T")

SPLITS = ("train", "test")
SLICE = 4096  # sample ids hashed at once
# What a file that is not there gives; any other OSError (a network drive, too many open files) is the machine's.
ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class MachineFault(InputError):
    """Not the image is at fault but the machine: elsewhere, or later, it can perhaps be read."""


def check_split(split: str) -> None:
    """Raises InputError on a name that is not a split."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Samples in a fixed order, addressed by position. label_N: int64 [N]; class_names: K names by label."""

    name: str
    split: str
    label_N: NDArray[np.int64]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.label_N)

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels [H, W, 3] of sample `index`. Raises InputError that names the file when it cannot be decoded."""
        raise NotImplementedError

    def sample_ids(self) -> list[str]:
        """A stable name for each sample, in order."""
        return list(self.each_id())

    def each_id(self) -> Iterable[str]:
        """The same one by one: 1.28 million of them at once are 120 MB."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hash of the ordered sample ids and labels: equal for equal sets, whatever the folder they lie in."""
        digest = hashlib.sha256()
        ids = iter(self.each_id())
        for first in range(0, len(self), SLICE):
            label_S = self.label_N[first : first + SLICE].tolist()
            lines = (f"{name}\t{label}\n" for name, label in zip(islice(ids, len(label_S)), label_S, strict=True))
            digest.update("".join(lines).encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ArraySet(ImageSet):
    """A set that lies in memory: pixels_NHWC uint8, all of one size."""

    pixels_NHWC: NDArray[np.uint8]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels_NHWC[index]

    def each_id(self) -> Iterable[str]:
        return (hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest() for pixels in self.pixels_NHWC)


@dataclass(frozen=True, kw_only=True)
class FileSet(ImageSet):
    """A set of image files of any size. paths are relative to root, with forward slashes (of large sets a PathTable).

    size_N2: int32 [N, 2], height and width, 0 = unknown; byte_N: int64 [N], of the file. None: not known beforehand.
    """

    root: Path
    paths: Sequence[str]
    size_N2: NDArray[np.int32] | None = None
    byte_N: NDArray[np.int64] | None = None

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._try(index, lambda path: decode.decode_rgb(path.read_bytes()))

    def read_bytes(self, index: int) -> bytes:
        """The file of sample `index` as it is. Raises InputError."""
        return self._try(index, Path.read_bytes)

    def encoded(self, index: int) -> bytes:
        """Bytes that every decoder of JPEG and PNG reads as `read` does: the file itself, or a PNG of its pixels.

        Raises InputError.
        """
        return self._try(index, lambda path: as_read_by_all(path.read_bytes()))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of sample `index`, known or from the file's header, without decoding. Raises InputError."""
        if self.size_N2 is not None and self.size_N2[index, 0]:
            height, width = self.size_N2[index].tolist()
            return height, width
        return self._try(index, decode.read_size)

    def check(self, index: int) -> None:
        """Raises InputError when `read` would; a tenth of its price for ordinary files."""
        self._try(index, lambda path: check(path.read_bytes()))

    def each_id(self) -> Iterable[str]:
        return self.paths

    def _try(self, index: int, act: Callable[[Path], T]) -> T:
        path = self.root / self.paths[index]
        try:
            return act(path)
        except (OSError, InputError) as error:
            machine = isinstance(error, OSError) and not isinstance(error, ABSENT)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            name = self.class_names[int(self.label_N[index])]
            kind = MachineFault if machine else InputError
            raise kind(f"cannot decode {path} (class {name!r}, index {index}): {reason}") from None
