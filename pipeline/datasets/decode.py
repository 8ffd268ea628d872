"""Image files to RGB pixels, equal bit for bit to Pillow's decoding.

JPEGs go through simplejpeg with slow DCT and full upsampling (what Pillow's libjpeg does); other formats, JPEGs of four
inks (simplejpeg decodes them to other colours) and JPEGs that it refuses (small faults) through Pillow. The EXIF
orientation is ignored, as torchvision does.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets.pillow import MOST_PIXELS, SEQUENTIAL, check_pixels, check_scans, opened, rgb
from pipeline.datasets.plain_files import ABSENT, open_plain

JPEG_START = b"\xff\xd8\xff"
SAME_COLOURS = ("YCbCr", "RGB", "Gray")
HEADER_BYTES = 1 << 16
OTHER_FRAMES = (0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
# libjpeg tells its first complaint only: this one means that there was none about the rows that were decoded.
UNREAD_ROWS = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd[0-9]$")


def decode_rgb(data: bytes, most: int = MOST_PIXELS) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of an encoded image of up to `most` pixels. Raises InputError with the decoder's reason."""
    size = check_jpeg(data, most)
    if size is not None:
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
            return pixels
        except ValueError:
            pass  # Pillow reads more, and its reason is the clearer one
    try:
        return rgb(data, most)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise InputError(_reason(error)) from None


class Frame(NamedTuple):
    """Where a sequential JPEG's height stands (byte), and how many rows of pixels are coded together."""

    at: int
    block: int


def decode_upper(data: bytes, size: tuple[int, int], rows: int, factor: int = 1) -> NDArray[np.uint8] | None:
    """RGB pixels [>= rows / factor, W / factor, 3] of a sequential JPEG, from its top down.

    With factor 1 they are those of `decode_rgb`, bit for bit; with 2, 4 or 8 (DCT scaling) each is about the mean of
    factor x factor. What lies below is not decoded: the decoder gets a copy of the file that says that it is less tall,
    and then complains about the rest, but about nothing else if the file is whole. size: (height, width), as
    `jpeg_size` says. None where it cannot be done so (other formats, progressive JPEGs, any damage): use decode_rgb.
    """
    frame = _frame(data)
    if frame is None:
        return None
    height, width = size
    # One more row where rows share colours: upsampling looks at the next one.
    wanted = min(-(-(rows + (frame.block > 8)) // frame.block) * frame.block, height)
    less_tall = bytearray(data)
    less_tall[frame.at : frame.at + 2] = wanted.to_bytes(2, "big")
    shape = (-(-wanted // factor), -(-width // factor), 3)
    smallest = {"min_height": shape[0], "min_width": shape[1]} if factor > 1 else {}
    try:
        pixels_HWC = np.empty(shape, np.uint8)
        simplejpeg.decode_jpeg(less_tall, "RGB", buffer=pixels_HWC, **smallest)
    except ValueError as error:
        if wanted == height or not UNREAD_ROWS.match(str(error)):
            return None
    except MemoryError:
        return None
    return pixels_HWC


def _frame(data: bytes) -> Frame | None:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in SEQUENTIAL and at + 10 < len(data):
            tables = data[at + 11 : at + 10 + 3 * data[at + 9] : 3]
            return Frame(at + 5, 8 * max((table & 15 for table in tables), default=1))
        if marker in OTHER_FRAMES or 0xD0 <= marker <= 0xDA:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def read_size(path: Path, most: int = MOST_PIXELS) -> tuple[int, int]:
    """(height, width) of an image file from its header, as `decode_rgb` would give.

    Raises InputError where `decode_rgb` would for the header; OSError where the machine is at fault.
    """
    try:
        with open_plain(path) as handle:
            size = jpeg_size(handle.read(HEADER_BYTES))
            if size is not None:
                check_pixels(size, most)
                return size
            handle.seek(0)
            with opened(handle, most) as image:
                return image.height, image.width
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ABSENT):
            raise
        raise InputError(_reason(error)) from None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that simplejpeg decodes as Pillow does, else None."""
    if not data.startswith(JPEG_START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colours in SAME_COLOURS else None


def check_jpeg(data: bytes, most: int) -> tuple[int, int] | None:
    """`jpeg_size`; raises InputError for a JPEG of more than `most` pixels, or of scans without end."""
    size = jpeg_size(data)
    if size is not None:
        check_pixels(size, most)
        check_scans(data, size)
    return size


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
