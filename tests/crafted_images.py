"""Image files that no encoder of Pillow writes: 16-bit colours, and headers that say more than there is."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by channels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values_HWC: NDArray[np.uint16], size: tuple[int, int] | None = None) -> bytes:
    """A PNG of 16 bits per channel. size: (height, width) that its header says."""
    height, width, channels = values_HWC.shape
    tall, wide = size or (height, width)
    head = struct.pack(">IIBBBBB", wide, tall, 16, COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def small() -> Image.Image:
    rng = np.random.Generator(np.random.Philox(3))
    return Image.fromarray(rng.integers(0, 256, (9, 14, 3), dtype=np.uint8))


def saying(kind: str, height: int, width: int) -> bytes:
    """A small file of the format `kind` whose header says height x width pixels."""
    data = bytearray(png(np.zeros((9, 14, 3), np.uint16), (height, width)) if kind == "PNG" else _small(kind))
    if kind.startswith("JPEG"):
        at = next(i for i in range(2, len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif kind == "WEBP":  # with a canvas of its own
        riff = bytes(data[12:])
        canvas = b"VP8X\x0a\0\0\0\0\0\0\0" + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        data = bytearray(b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(riff)) + b"WEBP" + canvas + riff)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == "PPM":
        data = bytearray(b"P6\n%d %d\n255\n" % (width, height)) + data[-9 * 14 * 3 :]
    elif kind == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = data.index(struct.pack("<HHII", tag, 4, 1, 14 if tag == 256 else 9))
            data[at + 8 : at + 12] = struct.pack("<I", value)
    return bytes(data)


def _small(kind: str) -> bytes:
    name, _, how = kind.partition(" ")
    options: dict[str, object] = {"progressive": {"progressive": True}, "grey": {}, "inks": {}}.get(how, {})
    mode = {"grey": "L", "inks": "CMYK"}.get(how, "RGB")
    if name == "TIFF":
        image = small()
        from PIL import TiffImagePlugin

        info = TiffImagePlugin.ImageFileDirectory_v2()
        data = encoded(image, "TIFF", tiffinfo=info)
        # Pillow writes sides as numbers of 16 or 32 bits, as they fit: of 32 they hold all.
        for tag, value in ((256, 14), (257, 9)):
            data = data.replace(struct.pack("<HHIHH", tag, 3, 1, value, 0), struct.pack("<HHII", tag, 4, 1, value))
        return data
    return encoded(small().convert(mode), name, **options)


BOMBS = ("JPEG", "JPEG progressive", "JPEG grey", "JPEG inks", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
