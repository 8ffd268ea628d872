"""Image files for decoders that know fewer kinds than Pillow: ordinary JPEGs as they are, all others as PNG.

Decoders on a GPU and in DALI fail on, or show other colours of, JPEGs of four inks, PNGs with alpha, WebP, and files
with damage that Pillow reads over.
"""

import io
import re

from PIL import Image

from pipeline.datasets.decode import check_jpeg, decode_rgb, decode_upper, jpeg_size
from pipeline.datasets.pillow import MOST_PIXELS

FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive, all of Huffman codes
TABLES = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))  # and comments, application data
SCAN, END = 0xDA, 0xD9
PADDING = b"\x00\xff\r\n \x1a"
# In a scan 0xff is followed by 0 (a literal 0xff), a restart marker or more 0xff; anything else ends the scan.
NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def as_read_by_all(data: bytes, most: int = MOST_PIXELS) -> bytes:
    """`data` when it is an ordinary JPEG, else a PNG of what `decode_rgb` makes of it. Raises InputError."""
    check_jpeg(data, most)
    if is_ordinary(data):
        return data
    buffer = io.BytesIO()
    Image.fromarray(decode_rgb(data, most)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def is_ordinary(data: bytes) -> bool:
    """Whether it is a whole JPEG of 8 bits, grey, YCbCr or RGB, without a fault in its structure.

    Costs a thirtieth of decoding it.
    """
    return jpeg_size(data) is not None and _is_whole(data)


def check(data: bytes, most: int = MOST_PIXELS) -> None:
    """Raises InputError when `decode_rgb` would; decodes only where that cannot be told otherwise.

    Of an ordinary sequential JPEG, one row of blocks tells whether its tables are there (a tenth of the time for all);
    damage inside its scan makes wrong pixels and no error, in libjpeg and in Pillow.
    """
    size = check_jpeg(data, most)
    if size is None or not _is_whole(data) or decode_upper(data, size, rows=1, factor=8) is None:
        decode_rgb(data, most)


def _is_whole(data: bytes) -> bool:
    at, frame, in_scan = 2, 0, False
    while True:
        found = NEXT.search(data, at)
        if found is None or (not in_scan and found.start() != at):
            return False
        marker = data[found.start() + 1]
        if marker == END:
            return in_scan and not data[found.end() :].strip(PADDING)
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        if marker in FRAMES and not frame:
            frame = marker
            if data[found.end() + 2] != 8:
                return False
        elif marker not in TABLES and not (marker == SCAN and frame):
            return False
        in_scan, at = marker == SCAN, found.end() + length
