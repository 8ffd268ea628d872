"""The one shape that all data sets have."""

import errno
import hashlib
import os
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
from pipeline.datasets.handed import check_array, check_counts, labels_of
from pipeline.datasets.notes import note_once
from pipeline.datasets.pillow import MOST_PIXELS, check_pixels
from pipeline.datasets.plain_files import ABSENT, read_plain, reading

T = TypeVar("T")

SPLITS = ("train", "test")
SLICE = 4096  # sample ids hashed at once


class MachineFault(InputError):
    """Not the image is at fault but the machine: elsewhere, or later, it can perhaps be read."""


def check_split(split: str) -> None:
    """Raises InputError on a name that is not a split."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")


def one_class(images: "ImageSet") -> str | None:
    """What is wrong with a set of one class, or of which one class has all training images; None for others.

    Raises InputError for a set without images.
    """
    held = np.unique(images.label_N)
    if not len(held):
        raise InputError(f"{images.name}/{images.split}: no images")
    if images.num_classes > 1 and (len(held) > 1 or images.split != "train"):
        return None
    name = images.class_names[int(held[0])]
    return f"{images.name}/{images.split}: all images are of one class ({name!r})"


def check_classes(images: "ImageSet") -> None:
    """Where accuracy is asked for: raises InputError for a set of one class, of which any network gets all right."""
    reason = one_class(images)
    if reason is not None:
        raise InputError(f"{reason}, and accuracy is 100 % whatever is learnt: is data.root a folder too high or low?")
    held = np.unique(images.label_N)
    if len(held) == 1:
        name = images.class_names[int(held[0])]
        note_once(f"{images.name}/{images.split}: all images are of class {name!r}: accuracy is of this one class")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Samples in a fixed order, addressed by position. label_N: int64 [N]; class_names: K names by label.

    Raises InputError for labels that are none of the K, and for another number of them than of samples.
    """

    name: str
    split: str
    label_N: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        # Not by assignment: sets are frozen.
        object.__setattr__(self, "label_N", labels_of(self._where, self.label_N, self.num_classes))

    @property
    def _where(self) -> str:
        return f"{self.name}/{self.split}"

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
    """A set that lies in memory: pixels_NHWC uint8, all of one size. Raises InputError for other pixels."""

    pixels_NHWC: NDArray[np.uint8]

    def __post_init__(self) -> None:
        check_array(self._where, self.pixels_NHWC)
        super().__post_init__()
        check_counts(self._where, len(self.pixels_NHWC), len(self.label_N), "images")

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels_NHWC[index]

    def each_id(self) -> Iterable[str]:
        return (hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest() for pixels in self.pixels_NHWC)


@dataclass(frozen=True, kw_only=True)
class FileSet(ImageSet):
    """A set of image files of any size. paths are relative to root, with forward slashes (of large sets a PathTable).

    size_N2: int32 [N, 2], height and width, 0 = unknown; byte_N: int64 [N], of the file. None: not known beforehand.
    max_pixels: an image whose header says more is not decoded.
    """

    root: Path
    paths: Sequence[str]
    size_N2: NDArray[np.int32] | None = None
    byte_N: NDArray[np.int64] | None = None
    max_pixels: int = MOST_PIXELS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self._where, len(self.paths), len(self.label_N), "files")

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._try(index, lambda path: decode.decode_rgb(read_plain(path), self.max_pixels))

    def read_bytes(self, index: int) -> bytes:
        """The file of sample `index` as it is. Raises InputError."""
        return self._try(index, read_plain)

    def encoded(self, index: int) -> bytes:
        """Bytes that every decoder of JPEG and PNG reads as `read` does: the file itself, or a PNG of its pixels.

        Raises InputError.
        """
        return self._try(index, lambda path: as_read_by_all(read_plain(path), self.max_pixels))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of sample `index`, known or from the file's header, without decoding. Raises InputError."""
        if self.size_N2 is not None and self.size_N2[index, 0]:
            height, width = self.size_N2[index].tolist()
            if height * width > self.max_pixels:
                self._try(index, lambda _: check_pixels((height, width), self.max_pixels))
            return height, width
        return self._try(index, lambda path: decode.read_size(path, self.max_pixels))

    def check(self, index: int) -> None:
        """Raises InputError when `read` would; a tenth of its price for ordinary files."""
        self._try(index, lambda path: check(read_plain(path), self.max_pixels))

    def each_id(self) -> Iterable[str]:
        return self.paths

    def _try(self, index: int, act: Callable[[Path], T]) -> T:
        path = self.root / self.paths[index]
        try:
            with reading(path):
                return act(path)
        except (OSError, InputError, MemoryError) as error:
            if isinstance(error, MemoryError):
                error = _of_memory(self.max_pixels)
            machine = isinstance(error, OSError) and not isinstance(error, ABSENT)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            name = self.class_names[int(self.label_N[index])]
            kind = MachineFault if machine else InputError
            raise kind(f"cannot decode {path} (class {name!r}, index {index}): {reason}") from None


def _of_memory(pixels: int) -> OSError | InputError:
    """Who is at fault when memory does not do: a file that asks for more than any image needs, or the machine."""
    try:
        np.empty(12 * pixels, np.uint8)
    except MemoryError:
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return InputError("it asks for more memory than an image of its size needs")
