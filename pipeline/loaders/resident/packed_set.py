"""Decoded images of any size in the host's memory."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet

BLOCK = 256  # images that lie in one piece of memory
PROBED = 500  # images whose headers are read for the estimate
SHARE = 0.8  # of the machine's memory that decoded images may take


@dataclass(frozen=True, kw_only=True)
class PackedSet(ImageSet):
    """Pixels of all images of a set that were packed; positions are the original's.

    blocks: the pixels of BLOCK images each, one behind the other; row_of: place of an image among those packed;
    start_R, size_R2: its first byte in its block, and its (height, width).
    """

    blocks: tuple[NDArray[np.uint8], ...]
    row_of: dict[int, int]
    start_R: NDArray[np.int64]
    size_R2: NDArray[np.int64]

    def read(self, index: int) -> NDArray[np.uint8]:
        row = self.row_of[index]
        start, (height, width) = int(self.start_R[row]), self.size_R2[row].tolist()
        return self.blocks[row // BLOCK][start : start + height * width * 3].reshape(height, width, 3)


def machine_memory() -> int:
    """Bytes of memory of this machine for each of its ranks."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks


def check_memory(image_set: ImageSet, index_N: NDArray[np.int64]) -> None:
    """Raises InputError where the decoded images would not fit into memory, as some of their headers tell."""
    size: Callable[[int], tuple[int, int]] | None = getattr(image_set, "size", None)
    if size is None or not len(index_N):
        return  # it lies in memory already
    probed = index_N[:: -(-len(index_N) // PROBED)].tolist()
    areas = []
    for index in probed:
        try:
            height, width = size(index)
        except InputError:
            continue  # decoding tells, or replaces it
        areas.append(height * width)
    needed = 3 * len(index_N) * float(np.mean(areas or [0]))
    room = SHARE * machine_memory()
    if needed > room:
        raise InputError(
            f"{image_set.name}/{image_set.split}: decoded images take about {needed / 1e9:.3g} GB, and a rank may use "
            f"{room / 1e9:.3g} GB here: use data.loader=torch"
        )


def pack(image_set: ImageSet, index_N: NDArray[np.int64], threads: int) -> PackedSet:
    """Decodes all images of `index_N` in `threads` threads. Raises InputError."""
    check_memory(image_set, index_N)

    def block(start: int) -> tuple[NDArray[np.uint8], list[tuple[int, ...]]]:
        images = [image_set.read(index) for index in index_N[start : start + BLOCK].tolist()]
        return np.concatenate([image.reshape(-1) for image in images]), [image.shape[:2] for image in images]

    with ThreadPoolExecutor(max(1, threads)) as pool:
        made = list(pool.map(block, range(0, len(index_N), BLOCK)))
    size_R2 = np.array([size for _, sizes in made for size in sizes], dtype=np.int64)
    return PackedSet(
        name=image_set.name,
        split=image_set.split,
        label_N=image_set.label_N,
        class_names=image_set.class_names,
        blocks=tuple(pixels for pixels, _ in made),
        row_of={index: row for row, index in enumerate(index_N.tolist())},
        start_R=np.concatenate(list(_starts(size_R2))),
        size_R2=size_R2,
    )


def _starts(size_R2: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(size_R2), BLOCK):
        bytes_B = 3 * size_R2[first : first + BLOCK].prod(axis=1)
        yield np.cumsum(bytes_B) - bytes_B
