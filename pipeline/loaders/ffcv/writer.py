"""A data set written as FFCV's .beton file: the same bytes whatever the number of threads, whole or not at all.

The file format is FFCV's (its types are used), its DatasetWriter is not: the order of its pages depends on which
process is faster, and a full disk makes it wait for ever.
"""

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline import views
from pipeline.contracts import InputError, unwritten
from pipeline.datasets.decode import check_jpeg
from pipeline.datasets.image_set import ImageSet
from pipeline.datasets.pillow import MOST_PIXELS
from pipeline.loaders.ffcv.file import FIELDS, JPEG, RAW, tables_digest
from pipeline.loaders.ffcv.library import ffcv_module
from pipeline.loaders.ffcv.manifest import FORMAT, Manifest, manifest_path, write_manifest
from pipeline.utils.atomic import whole_or_absent

KEEP = "keep"
KEPT_QUALITY = 90  # of images whose own bytes cannot be kept
PAGE = 1 << 23  # bytes, FFCV's default; nothing crosses a border between pages
LARGEST = 65535  # pixels of a side, by the format


class Sample(NamedTuple):
    """content: mode JPEG or RAW. size, source_size: (height, width), as stored and before the image was resized."""

    mode: int
    size: tuple[int, int]
    source_size: tuple[int, int]
    content: bytes


class Encoder:
    """Sample i of a set as it is to be stored. Raises InputError."""

    def __init__(self, image_set: ImageSet, max_resolution: int | None, quality: int | str, raw_N: NDArray[np.bool_]):
        self._set = image_set
        self._side = max_resolution or LARGEST
        self._keep = quality == KEEP
        self._quality = KEPT_QUALITY if isinstance(quality, str) else quality
        self._raw_N = raw_N
        self._most: int = getattr(image_set, "max_pixels", MOST_PIXELS)
        self._read_bytes = getattr(image_set, "read_bytes", None)  # sets of files have it

    def __call__(self, index: int) -> Sample:
        raw = bool(self._raw_N[index])
        if self._keep and not raw and self._read_bytes is not None:
            kept = self._kept(self._read_bytes(index))
            if kept is not None:
                return kept
        source = self._set.read(index)
        pixels = self._resized(source)
        if raw:
            content = pixels.tobytes()
        else:
            content = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), self._quality, "RGB", "420", fastdct=False)
        return Sample(RAW if raw else JPEG, pixels.shape[:2], source.shape[:2], content)

    def _kept(self, data: bytes) -> Sample | None:
        """The file itself, if it is a small enough JPEG without a fault, of colours that FFCV decodes."""
        try:
            check_jpeg(data, self._most)
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours not in ("YCbCr", "Gray") or max(height, width) > self._side:
                return None
            simplejpeg.decode_jpeg(data)
        except (ValueError, InputError, MemoryError):
            return None
        return Sample(JPEG, (height, width), (height, width), data)

    def _resized(self, pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Longer side at most max_resolution, by an antialiased triangular filter."""
        height, width = pixels_HWC.shape[:2]
        ratio = self._side / max(height, width)
        if ratio >= 1:
            return pixels_HWC
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels_HWC)).resize(size, Image.Resampling.BILINEAR))


class Pages:
    """Where contents lie in the file: one after the other, none across a border between pages.

    An image larger than a page doubles the page for the whole file: what crosses no border of small pages crosses none
    of large ones.
    """

    def __init__(self, start: int) -> None:
        self.page = PAGE
        self._free = -(-start // PAGE) * PAGE

    def place(self, size: int) -> int:
        """Position of the next `size` bytes."""
        while self.page < size:
            self.page *= 2
        if self._free // self.page != (self._free + size - 1) // self.page:
            self._free = -(-self._free // self.page) * self.page
        at = self._free
        self._free += size
        return at


def raw_images(seed: int, samples: int, fraction: float) -> NDArray[np.bool_]:
    """bool [N]: which images are stored as pixels, a function of (seed, index)."""
    word_N, _, _, _ = views.words(seed, views.Stream.SPLIT, np.arange(samples, dtype=np.int64), 0, 1)
    return np.asarray(views.uniform(word_N) < fraction)


def write_beton(
    image_set: ImageSet,
    path: Path,
    *,
    max_resolution: int | None,
    quality: int | str = 90,
    raw_fraction: float = 0.0,
    workers: int = 2,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Manifest:
    """Writes the set to `path` and F.beton.json beside it; both are there when it returns, and neither if it fails.

    max_resolution: pixels of the longer side, None = as they are. quality: of the JPEGs, or `keep` for the bytes of
    JPEGs that need not be resized. raw_fraction: share of the images stored as pixels, drawn from seed. workers:
    threads. progress: called with the number of images written. Raises InputError, NotWritten, one line.
    """
    _check(image_set, max_resolution, quality, raw_fraction)
    encode = Encoder(image_set, max_resolution, quality, raw_images(seed, len(image_set), raw_fraction))
    try:
        fingerprint = image_set.fingerprint()
        with whole_or_absent(path) as handle, ThreadPoolExecutor(max(1, workers)) as pool:
            samples = _in_order(pool, encode, len(image_set), 4 * max(1, workers))
            head, table_at = _write(handle, samples, image_set, progress)
            handle.flush()
            size, tables = handle.tell(), tables_digest(Path(handle.name), head, table_at)
            manifest_path(path).unlink(missing_ok=True)  # of an older file: it must never stand beside this one
        manifest = Manifest(
            format=FORMAT,
            data_set=image_set.name,
            split=image_set.split,
            fingerprint=fingerprint,
            samples=len(image_set),
            max_resolution=max_resolution,
            quality=quality,
            raw_fraction=raw_fraction,
            seed=seed,
            file_bytes=size,
            tables=tables,
        )
        _seal(path, manifest)
    except OSError as error:
        raise unwritten(f"cannot write {path}", error) from None
    return manifest


def _seal(path: Path, manifest: Manifest) -> None:
    """The manifest beside the file, or none of them."""
    try:
        write_manifest(path, manifest)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _check(image_set: ImageSet, max_resolution: int | None, quality: int | str, raw_fraction: float) -> None:
    for fine, text in (
        (len(image_set) > 0, f"{image_set.name}/{image_set.split}: there are no images"),
        (max_resolution is None or 1 <= max_resolution <= LARGEST, f"max_resolution={max_resolution} is no side"),
        (quality == KEEP or (isinstance(quality, int) and 1 <= quality <= 100), f"quality={quality} is not 1..100"),
        (0 <= raw_fraction <= 1, f"raw_fraction={raw_fraction} is outside 0..1"),
    ):
        if not fine:
            raise InputError(text)


def _in_order(pool: ThreadPoolExecutor, encode: Callable[[int], Sample], count: int, ahead: int) -> Iterator[Sample]:
    """encode(0), encode(1), ..., at most `ahead` of them at a time."""
    waiting: deque[Future[Sample]] = deque()
    try:
        for index in range(count):
            waiting.append(pool.submit(encode, index))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _write(
    handle: BinaryIO, samples: Iterator[Sample], image_set: ImageSet, progress: Callable[[int], object] | None
) -> tuple[int, int]:
    """The file; (bytes of header, fields and metadata; where the table of allocations begins)."""
    types = ffcv_module("types")
    header, descriptor_F, row_N = _tables(types, len(image_set))
    place_N = np.zeros(len(image_set), dtype=types.ALLOC_TABLE_TYPE)
    head = header.nbytes + descriptor_F.nbytes + row_N.nbytes
    pages = Pages(head)
    for index, sample in enumerate(samples):
        at = pages.place(len(sample.content))
        handle.seek(at)
        handle.write(sample.content)
        height, width = sample.size
        row_N[index] = (
            (sample.mode, width, height, at),
            *(image_set.label_N[index], index, *sample.source_size, *summed(sample.content)),
        )
        place_N[index] = (index, at, len(sample.content))
        if progress is not None:
            progress(index + 1)
    table_at = handle.seek(0, os.SEEK_END)
    handle.write(place_N.tobytes())
    header["page_size"], header["alloc_table_ptr"] = pages.page, table_at
    handle.seek(0)
    for table in (header, descriptor_F, row_N):
        handle.write(table.tobytes())
    handle.seek(0, os.SEEK_END)
    return head, table_at


def summed(content: bytes) -> tuple[int, ...]:
    """Fields that say whether a sample is whole."""
    return (zlib.crc32(content),)


def _tables(types: Any, samples: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Header [1], field descriptors [F] and metadata [N], the last still empty."""
    fields = (types.RGBImageField(), *(types.IntField() for _ in FIELDS[1:]))
    number_of = {kind: number for number, kind in types.TYPE_ID_HANDLER.items()}
    descriptor_F = np.zeros(len(fields), dtype=types.FieldDescType)
    for descriptor, name, field in zip(descriptor_F, FIELDS, fields, strict=True):
        descriptor["type_id"] = number_of[type(field)]
        descriptor["name"][: len(name)] = np.frombuffer(name.encode(), dtype=np.uint8)
        descriptor["arguments"] = field.to_binary()[0]
    header = np.zeros(1, dtype=types.HeaderType)
    header["version"], header["num_fields"], header["num_samples"] = types.CURRENT_VERSION, len(fields), samples
    return header, descriptor_F, np.zeros(samples, dtype=types.get_metadata_type(list(fields)))
