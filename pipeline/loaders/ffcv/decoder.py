"""Our decoder: FFCV's own JPEG and resize routines, called from compiled code that holds no lock.

Importing this module needs numba and FFCV. Code that names C functions by address cannot be kept on disk, and
compiling takes 5 s; hence the addresses are given names, which numba's cache can refer to (then 0.04 s).
"""

import ctypes
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from pipeline.loaders.ffcv.geometry import Column
from pipeline.loaders.ffcv.library import ffcv_module

_library = ffcv_module("libffcv").lib
for _name in ("imdecode", "resize"):
    llvm.add_symbol(f"stillhouse_ffcv_{_name}", ctypes.cast(_library[_name], ctypes.c_void_p).value)

DONE = -1
_N = types.int64
_U = types.uint32
# (source, bytes, height, width, target, crop height, crop width, x, y, scale, its denominator, crop, flip): 0 = done
_imdecode: Any = types.ExternalFunction("stillhouse_ffcv_imdecode", types.int32(_N, _N, _U, _U, _N, *[_U] * 8))
# (unused, source, height, width, first row, end, first column, end, target, its height, its width); INTER_AREA
_resize: Any = types.ExternalFunction("stillhouse_ffcv_resize", types.void(*[_N] * 11))

_POINTER, _SIZE, _RAW, _HEIGHT, _WIDTH = map(int, list(Column)[:5])
_TOP, _LEFT, _TALL, _WIDE, _FRAME_TALL, _FRAME_WIDE = map(int, list(Column)[5:11])
_DOWN, _RIGHT, _MOVE_DOWN, _MOVE_RIGHT, _MIRROR = map(int, list(Column)[11:])


@njit(nogil=True, cache=True)
def _mirror(image_SS3):  # type: ignore[no-untyped-def]
    side = image_SS3.shape[1]
    for y in range(image_SS3.shape[0]):
        for x in range(side // 2):
            for c in range(3):
                left = image_SS3[y, x, c]
                image_SS3[y, x, c] = image_SS3[y, side - 1 - x, c]
                image_SS3[y, side - 1 - x, c] = left


@njit(nogil=True, cache=True)
def _place(frame_HW3, row, image_SS3):  # type: ignore[no-untyped-def]
    """The part of the frame that is shown, moved over zeros."""
    size = image_SS3.shape[0]
    for y in range(size):
        at = y + row[_MOVE_DOWN]
        first, last = max(0, -row[_MOVE_RIGHT]), min(size, size - row[_MOVE_RIGHT])
        if at < 0 or at >= size:
            first = last = 0
        image_SS3[y, :first] = 0
        image_SS3[y, last:] = 0
        if first < last:
            start = row[_RIGHT] + row[_MOVE_RIGHT] + first
            image_SS3[y, first:last] = frame_HW3[row[_DOWN] + at, start : start + last - first]


@njit(nogil=True, cache=True)
def _show(source, row, frame_P, image_SS3):  # type: ignore[no-untyped-def]
    """The image of `row` out of the decoded pixels at the address `source`."""
    tall, wide = row[_FRAME_TALL], row[_FRAME_WIDE]
    size = image_SS3.shape[0]
    plain = tall == size and wide == size and row[_MOVE_DOWN] == 0 and row[_MOVE_RIGHT] == 0
    target = image_SS3.ctypes.data if plain else frame_P.ctypes.data
    bottom, end = row[_TOP] + row[_TALL], row[_LEFT] + row[_WIDE]
    _resize(0, source, row[_HEIGHT], row[_WIDTH], row[_TOP], bottom, row[_LEFT], end, target, tall, wide)
    if not plain:
        _place(frame_P[: tall * wide * 3].reshape(tall, wide, 3), row, image_SS3)
    if row[_MIRROR]:
        _mirror(image_SS3)


@njit(nogil=True, cache=True)
def _has_size(content, start, stop, height, width):  # type: ignore[no-untyped-def]
    """Whether the first frame of a JPEG has this size: FFCV's routine believes the table that it is given."""
    at = start + 2
    while at + 9 <= stop:
        if content[at] != 0xFF:
            return False
        kind = content[at + 1]
        if kind == 0xFF or kind == 0x01 or 0xD0 <= kind <= 0xD8:  # fill bytes, and markers without a length
            at += 1 if kind == 0xFF else 2
        elif 0xC0 <= kind <= 0xCF and kind != 0xC4 and kind != 0xC8 and kind != 0xCC:
            found_height = (np.int64(content[at + 5]) << 8) | np.int64(content[at + 6])
            return found_height == height and ((np.int64(content[at + 7]) << 8) | np.int64(content[at + 8])) == width
        elif kind == 0xD9 or kind == 0xDA:
            return False
        else:
            at += 2 + ((np.int64(content[at + 2]) << 8) | np.int64(content[at + 3]))
    return False


@njit(nogil=True, cache=True)
def _decode_rows(content, row_B, pixels_P, frame_P, image_BSS3):  # type: ignore[no-untyped-def]
    for b in range(len(row_B)):
        row = row_B[b]
        start, bytes_, height, width = row[_POINTER], row[_SIZE], row[_HEIGHT], row[_WIDTH]
        source = content.ctypes.data + start
        if start < 0 or bytes_ < 0 or start + bytes_ > len(content):
            return b
        if row[_RAW]:
            if bytes_ != height * width * 3:
                return -2 - b
        else:
            if not _has_size(content, start, start + bytes_, height, width):
                return -2 - b
            target = pixels_P.ctypes.data
            if _imdecode(source, bytes_, height, width, target, height, width, 0, 0, 1, 1, 0, 0) != 0:
                return b
            source = target
        _show(source, row, frame_P, image_BSS3[b])
    return -1


class Scratch:
    """One thread's memory: a decoded image, and a resized one."""

    def __init__(self) -> None:
        self.pixels_P = np.empty(0, dtype=np.uint8)
        self.frame_P = np.empty(0, dtype=np.uint8)

    def reserve(self, row_B16: NDArray[np.int64]) -> None:
        """Room for every image of the rows."""
        stored = 3 * int((row_B16[:, Column.HEIGHT] * row_B16[:, Column.WIDTH]).max())
        frame = 3 * int((row_B16[:, Column.FRAME_TALL] * row_B16[:, Column.FRAME_WIDE]).max())
        if len(self.pixels_P) < stored:
            self.pixels_P = np.empty(stored, dtype=np.uint8)
        if len(self.frame_P) < frame:
            self.frame_P = np.empty(frame, dtype=np.uint8)


def decode_rows(
    content: NDArray[np.uint8], row_B16: NDArray[np.int64], image_BSS3: NDArray[np.uint8], scratch: Scratch
) -> int:
    """Fills image_BSS3 with the images of geometry rows.

    Returns DONE; the first row that cannot be decoded; or DONE - 1 - row for one that has another size than it says.
    """
    scratch.reserve(row_B16)
    return int(_decode_rows(content, row_B16, scratch.pixels_P, scratch.frame_P, image_BSS3))
