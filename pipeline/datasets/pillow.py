"""Images by Pillow: only formats that it decodes itself, only as large as is allowed, wide pixels brought to 8 bits."""

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets.notes import Once
from pipeline.datasets.plain_files import being_read

# What Pillow warns of, too. Decoded, such an image takes 270 MB, and on the way a gigabyte.
MOST_PIXELS = 89_478_485
# Ghostscript is started for the first; the others are read by libraries that are not there, or hold no pixels.
FOREIGN = ("EPS", "WMF", "MPEG", "FPX", "MIC", "GRIB", "BUFR", "HDF5")
WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # one channel of 16 bits, 32 bits, float32
WEBP = re.compile(rb"RIFF....WEBPVP8X.{8}(.{3})(.{3})", re.DOTALL)
SEQUENTIAL = (0xC0, 0xC1)  # frames whose rows come from top to bottom, once
JPEG_SCAN = b"\xff\xda"
MOST_DECODED = 40 * MOST_PIXELS  # pixels x scans: a JPEG of many scans is decoded once for each

_scaled, _bytes_lost = Once(), Once()


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the formats that are tried, in Pillow's order."""
    Image.init()
    return tuple(name for name in Image.ID if name not in FOREIGN)


def check_pixels(size: tuple[int, int], most: int) -> None:
    """Raises InputError for (height, width) of more than `most` pixels."""
    if size[0] * size[1] > most:
        raise InputError(f"it says {size[1]} x {size[0]} pixels, more than data.max_pixels={most}")


def check_scans(data: bytes, size: tuple[int, int]) -> None:
    """Raises InputError for a JPEG of so many scans that it is a trap: ordinary ones have up to ten or so."""
    if _has_one_scan(data):
        return
    scans = data.count(JPEG_SCAN)
    if size[0] * size[1] * scans > MOST_DECODED:
        raise InputError(f"it has {scans} scans of {size[1]} x {size[0]} pixels")


def _has_one_scan(data: bytes) -> bool:
    """Whether a JPEG's first scan holds all its channels for good, so that no other is decoded. Takes microseconds."""
    at, channels = 2, 0
    while at + 10 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in SEQUENTIAL:
            channels = data[at + 9]
        elif marker == JPEG_SCAN[1]:
            return data[at + 4] == channels
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


@contextlib.contextmanager
def opened(source: BinaryIO, most: int) -> Iterator[Image.Image]:
    """The image before it is decoded. Raises InputError for more than `most` pixels, and whatever Pillow raises."""
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large files and palettes with transparency are read as they are
        canvas = WEBP.match(source.read(30))  # libwebp takes memory for all of it when the file is opened
        source.seek(0)
        if canvas:
            width, height = (int.from_bytes(side, "little") + 1 for side in canvas.groups())
            check_pixels((height, width), most)
        try:
            image = Image.open(source, formats=formats())
        except Image.DecompressionBombError:
            raise InputError(f"it says more pixels than data.max_pixels={most}") from None
        with image:
            check_pixels((image.height, image.width), most)
            yield image


def rgb(data: bytes, most: int) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of an image file. Raises as `opened`."""
    with opened(io.BytesIO(data), most) as image:
        if data.startswith(b"\xff\xd8"):
            check_scans(data, (image.height, image.width))
        if any(";16" in str(tile) for tile in getattr(image, "tile", ())) and image.mode not in WIDE:
            _bytes_lost.say(f"{_name()} has 16 bits per channel: the upper 8 are shown, of all such images")
        if image.mode in WIDE:
            image.load()
            return _grey(np.asarray(image))
        return np.array(image.convert("RGB"))


def _grey(wide_HW: NDArray[Any]) -> NDArray[np.uint8]:
    """Wide pixels of one channel by what they hold: 0..255 as they are, 0..1 and 0..65535 scaled. Raises InputError."""
    low, high = float(np.min(wide_HW)), float(np.max(wide_HW))
    real = wide_HW.dtype.kind == "f"
    if not (low >= 0 and high <= 65535):  # also what is no number
        raise InputError(f"it holds numbers from {low:g} to {high:g}: neither 0 to 1 nor 0 to 255 nor 0 to 65535")
    if real and 0 < high <= 1:
        _scaled.say(f"{_name()} holds float32 from 0 to 1: shown as 0 to 255, as all such images")
        wide_HW = np.rint(wide_HW * np.float32(255))
    elif high > 255:
        _scaled.say(f"{_name()} holds numbers above 255: 0 to 65535 is shown as 0 to 255, of all such images")
        wide_HW = wide_HW // 256
    return np.repeat(wide_HW.astype(np.uint8)[:, :, None], 3, axis=2)


def _name() -> str:
    path = being_read()
    return "an image" if path is None else str(path)
