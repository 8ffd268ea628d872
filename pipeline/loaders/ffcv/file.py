"""A .beton file that belongs to a data set and is whole."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders.ffcv.library import ffcv_module
from pipeline.loaders.ffcv.manifest import Manifest, read_manifest
from pipeline.utils.plain_yaml import shown

JPEG, RAW = 0, 1  # FFCV's image modes
FIELDS = ("image", "label", "index", "height", "width", "crc")  # height, width: of the source; crc: CRC-32 of the bytes
WITHOUT_SUMS = FIELDS[:-1]  # files of the format 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Beton:
    """Sample i of the set is row i of every table.

    tables: their checksum. content: the file, uint8, read-only. mode_N: JPEG or RAW. height_N, width_N: as stored,
    source_height_N, source_width_N: before they were resized, pixels. pointer_N, size_N: place in the file, bytes.
    crc_N: CRC-32 of the bytes, None in files that have no sums.
    """

    path: Path
    tables: str
    content: NDArray[np.uint8]
    mode_N: NDArray[np.int64]
    height_N: NDArray[np.int64]
    width_N: NDArray[np.int64]
    source_height_N: NDArray[np.int64]
    source_width_N: NDArray[np.int64]
    pointer_N: NDArray[np.int64]
    size_N: NDArray[np.int64]
    crc_N: NDArray[np.int64] | None = None

    def is_whole(self, index: int) -> bool:
        """Whether the bytes of a sample are those that were written; True where no sum says it."""
        start, stop = int(self.pointer_N[index]), int(self.pointer_N[index] + self.size_N[index])
        return self.crc_N is None or zlib.crc32(self.content[start:stop].data) == int(self.crc_N[index])


def tables_digest(path: Path, header_bytes: int, table_at: int) -> str:
    """Checksum of the first header_bytes and of everything from table_at on. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as handle:
        digest.update(handle.read(header_bytes))
        handle.seek(table_at)
        digest.update(handle.read())
    return digest.hexdigest()


def open_beton(path: Path, image_set: ImageSet, cache: str) -> Beton:
    """cache: `os` maps the file into memory, `memory` reads it.

    Raises InputError for a file that is missing, cut short or changed, or was written from another set.
    """
    try:
        present = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror} (data_prep/write_beton.py writes it)") from None
    manifest = read_manifest(path)
    if present != manifest.file_bytes:
        raise InputError(f"{path} has {present} bytes, but {manifest.file_bytes} were written: write it again")
    _check_set(path, manifest, image_set)
    reader = _reader(path, manifest)
    label_N = reader.metadata["f1"]
    if not np.array_equal(label_N, image_set.label_N):
        raise InputError(f"{path}: its labels are not those of {image_set.name}/{image_set.split}")
    return _columns(path, manifest.tables, reader, _content(path, cache))


def _check_set(path: Path, manifest: Manifest, image_set: ImageSet) -> None:
    written = f"{manifest.data_set}/{manifest.split} ({manifest.samples} images)"
    asked = f"{image_set.name}/{image_set.split} ({len(image_set)} images)"
    if written != asked:
        raise InputError(f"{path} was written from {shown(written)}, not from {asked}")
    fingerprint = image_set.fingerprint()
    if fingerprint != manifest.fingerprint:
        raise InputError(
            f"{path} was written from another {shown(written)} than the one that is read: fingerprints "
            f"{shown(manifest.fingerprint[:12])} and {fingerprint[:12]}"
        )


def _reader(path: Path, manifest: Manifest) -> Any:
    """FFCV's reader of the tables."""
    module = ffcv_module("reader")
    try:
        reader = module.Reader(str(path))
        head = reader.header.nbytes + reader.field_descriptors.nbytes + reader.metadata.nbytes
        digest = tables_digest(path, head, int(reader.header["alloc_table_ptr"]))
    except Exception as error:  # NumPy and FFCV raise nearly anything on damaged tables
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:100]}): write it again") from None
    if digest != manifest.tables or tuple(reader.field_names) not in (FIELDS, WITHOUT_SUMS):
        raise InputError(f"{path} is damaged, or is not the file its manifest was written for: write it again")
    return reader


def _content(path: Path, cache: str) -> NDArray[np.uint8]:
    if cache == "os":
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    content = np.fromfile(path, dtype=np.uint8)
    content.setflags(write=False)  # one type for the compiled code
    return content


def _columns(path: Path, tables: str, reader: Any, content: NDArray[np.uint8]) -> Beton:
    """Sizes by pointer, as FFCV finds them: a sample has one allocation."""
    image_N = reader.metadata["f0"]
    order = np.argsort(reader.alloc_table["ptr"])
    pointer_N = image_N["data_ptr"]
    found = order[np.searchsorted(reader.alloc_table["ptr"], pointer_N, sorter=order)]
    return Beton(
        path=path,
        tables=tables,
        content=content,
        mode_N=image_N["mode"].astype(np.int64),
        height_N=image_N["height"].astype(np.int64),
        width_N=image_N["width"].astype(np.int64),
        source_height_N=reader.metadata["f3"].astype(np.int64),
        source_width_N=reader.metadata["f4"].astype(np.int64),
        pointer_N=pointer_N.astype(np.int64),
        size_N=reader.alloc_table["size"][found].astype(np.int64),
        crc_N=reader.metadata["f5"].astype(np.int64) if len(reader.field_names) == len(FIELDS) else None,
    )
