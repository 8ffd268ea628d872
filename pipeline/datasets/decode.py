"""Image files to RGB pixels, equal bit for bit to Pillow's decoding.

JPEGs go through simplejpeg with slow DCT and full upsampling (what Pillow's libjpeg does); other formats, JPEGs of four
inks (simplejpeg decodes them to other colours) and JPEGs that it refuses (small faults) through Pillow. The EXIF
orientation is ignored, as torchvision does.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import InputError

JPEG_START = b"\xff\xd8\xff"
SAME_COLOURS = ("YCbCr", "RGB", "Gray")
HEADER_BYTES = 1 << 16


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of an encoded image. Raises InputError with the decoder's reason."""
    if _jpeg_size(data) is not None:
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
            return pixels
        except ValueError:
            pass  # Pillow reads more, and its reason is the clearer one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large files and palettes with transparency are read as they are
            return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise InputError(_reason(error)) from None


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file from its header, as `decode_rgb` would give. Raises InputError."""
    try:
        with path.open("rb") as handle, warnings.catch_warnings():
            size = _jpeg_size(handle.read(HEADER_BYTES))
            if size is not None:
                return size
            handle.seek(0)
            warnings.simplefilter("ignore")
            with Image.open(handle) as image:
                return image.height, image.width
    except Exception as error:
        raise InputError(_reason(error)) from None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that simplejpeg decodes as Pillow does, else None."""
    if not data.startswith(JPEG_START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colours in SAME_COLOURS else None


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
