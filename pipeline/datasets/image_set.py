"""The one shape that all data sets have."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets import decode

T = TypeVar("T")

SPLITS = ("train", "test")


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
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hash of the ordered sample ids and labels: equal for equal sets, whatever the folder they lie in."""
        digest = hashlib.sha256()
        for name, label in zip(self.sample_ids(), self.label_N.tolist(), strict=True):
            digest.update(f"{name}\t{label}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ArraySet(ImageSet):
    """A set that lies in memory: pixels_NHWC uint8, all of one size."""

    pixels_NHWC: NDArray[np.uint8]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels_NHWC[index]

    def sample_ids(self) -> list[str]:
        return [hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest() for pixels in self.pixels_NHWC]


@dataclass(frozen=True, kw_only=True)
class FileSet(ImageSet):
    """A set of image files of any size. paths are relative to root, with forward slashes."""

    root: Path
    paths: Sequence[str]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._try(index, lambda path: decode.decode_rgb(path.read_bytes()))

    def read_bytes(self, index: int) -> bytes:
        """The file of sample `index` as it is. Raises InputError."""
        return self._try(index, Path.read_bytes)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of sample `index` from the file's header, without decoding. Raises InputError."""
        return self._try(index, decode.read_size)

    def sample_ids(self) -> list[str]:
        return list(self.paths)

    def _try(self, index: int, act: Callable[[Path], T]) -> T:
        path = self.root / self.paths[index]
        try:
            return act(path)
        except (OSError, InputError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            name = self.class_names[int(self.label_N[index])]
            raise InputError(f"cannot decode {path} (class {name!r}, index {index}): {reason}") from None
