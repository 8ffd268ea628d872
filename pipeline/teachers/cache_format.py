"""The teacher cache on disk: a folder of one array per view and stream, and a manifest that says what it is of.

docs/teacher_cache.md tells it byte by byte. Files of others are data: JSON, and .npy read without pickle.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.teachers.codecs import AUTOCAST, POOLED, Codec, codec_of
from pipeline.utils.untrusted_files import Unreadable, read_object

FORMAT, VERSION = "stillhouse-teacher-cache", 1
MANIFEST = "manifest.json"
KINDS = ("logits", "pooled")
# Classes, or numbers of a pooled vector: rows of topk are unpacked to this width, whatever the files hold.
WIDEST = 10**6
MOST_SHOWN = 80  # characters of a file's own words in a message
EARLIER = {"fold": False, "tf32": "off"}  # of identity.precision, where a manifest does not say it yet
TF32_IN = {"off", "convolutions", "on"}
HEADER = 4096  # bytes that the head of an array may take; NumPy writes 128
STREAM = r"[A-Za-z0-9_-]{1,64}"  # names of further views
CHUNK = 256  # samples that go through the teacher together, where views are not mixed within a batch


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the arrays look like. samples: positions of the full training set; pooled: width, 0 = not stored.

    dtype: fp32, fp16, int8 or topk (of k classes); views: how many there are; streams: further views, by name.
    """

    samples: int
    classes: int
    pooled: int
    views: int
    dtype: str
    k: int = 0
    streams: tuple[str, ...] = ()

    @property
    def logits(self) -> Codec:
        """How logits are stored."""
        return codec_of(self.dtype, self.k)

    def arrays(
        self, streams: Sequence[str] | None = None, kinds: Sequence[str] = KINDS
    ) -> Iterator[tuple[str, str, Codec, int]]:
        """(stream, kind, codec, width) of what one view holds, or of some of it; the ordinary view is stream ""."""
        for stream in ("", *self.streams) if streams is None else streams:
            yield stream, "logits", self.logits, self.classes
            if self.pooled and "pooled" in kinds:
                yield stream, "pooled", codec_of(POOLED[self.dtype]), self.pooled

    def files(
        self, view: int, streams: Sequence[str] | None = None, kinds: Sequence[str] = KINDS
    ) -> dict[str, tuple[np.dtype[Any], int]]:
        """(dtype, columns) of each file of a view, or of some of its arrays, by name."""
        found = {}
        for stream, what, codec, width in self.arrays(streams, kinds):
            for suffix, columns in codec.columns(width).items():
                dtype = np.dtype(str(codec.parts[suffix]).removeprefix("torch."))
                found[file_name(view, stream, what, suffix)] = (dtype, columns)
        return found

    def bytes_per_view(self) -> int:
        """Bytes of all files of one view, headers left out."""
        return sum(dtype.itemsize * columns * self.samples for dtype, columns in self.files(0).values())


def file_name(view: int, stream: str, what: str, suffix: str = "") -> str:
    """view-00003.logits.npy, view-00003.strong.logits.npy, view-00003.logits.scale.npy."""
    middle = f"{stream}." if stream else ""
    return f"view-{view:05d}.{middle}{what}{suffix}.npy"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """layout: of the arrays; identity: of what they are the outputs, nested; files: bytes and SHA-256 by name."""

    layout: Layout
    identity: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def amp(self) -> str:
        """Autocast of the teacher."""
        return str(self.identity.get("precision", {}).get("amp", "off"))

    @property
    def tf32(self) -> str:
        """Where the teacher ran in TF32: off, convolutions or on (matrix products too)."""
        return str(self.identity.get("precision", {}).get("tf32", "off"))

    def text(self) -> str:
        """As written: the same for equal caches."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError: no cache there, an unfinished one, one of another version, a damaged manifest.

    It is somebody else's: nothing in it is believed before it has its type, and no name leads anywhere but to the files
    that a cache of its layout has.
    """
    path = folder / MANIFEST
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for names that are too long
        unfinished = os.path.isdir(folder / ".parts")  # noqa: PTH112
        state = "is not finished: run cache_teacher.py again" if unfinished else "holds no cache"
        raise InputError(f"teacher.cache={folder} {state} (no {MANIFEST})")
    try:
        content = read_object(path)
    except Unreadable as error:
        raise InputError(str(error)) from None
    written = content.get("format"), content.get("version")
    if written != (FORMAT, VERSION):
        raise InputError(f"{path} is a {_short(written[0])} of version {_short(written[1])}, not {FORMAT} {VERSION}")
    try:
        layout = _layout(content.get("layout"))
        files = _files(content.get("files"), layout)
        return Manifest(layout=layout, identity=_identity(content.get("identity")), files=files)
    except (InputError, _Wrong) as error:  # InputError: of a codec
        raise InputError(f"{path} is damaged: {error}") from None


class _Wrong(Exception):
    """What is wrong in a manifest."""


def _layout(found: Any) -> Layout:
    if not isinstance(found, dict) or not {"samples", "classes", "pooled", "views", "dtype"} <= found.keys():
        raise _Wrong("layout is not what a cache has")
    known = {field.name for field in fields(Layout)}
    for name, value in found.items():
        least = 0 if name in ("pooled", "k") else 1
        if name == "streams":
            plain = isinstance(value, list) and all(isinstance(s, str) and re.fullmatch(STREAM, s) for s in value)
            fine = plain and len(set(value)) == len(value)
        elif name == "dtype":
            fine = isinstance(value, str)
        else:
            most = WIDEST if name in ("classes", "pooled", "k") else 2**63
            fine = name in known and type(value) is int and least <= value <= most
        if not fine:
            raise _Wrong(f"layout.{_short(name)} is {_short(value)}")
    layout = Layout(**{**found, "streams": tuple(found.get("streams", ()))})
    layout.files(0)  # refuses unknown types, and numbers of classes to keep that make no sense
    return layout


def _identity(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _Wrong("identity is no mapping")
    identity = dict(found)
    for name in ("teacher", "dataset", "streams", "precision"):
        if not isinstance(identity.get(name, {}), dict):
            raise _Wrong(f"identity.{name} is {_short(identity[name])}")
    if "precision" in identity:  # manifests say it since teachers are folded
        identity["precision"] = {"fold": False} | identity["precision"]
    for name, known in (("amp", AUTOCAST), ("tf32", TF32_IN)):
        value = identity.get("precision", {}).get(name, "off")
        if not (isinstance(value, str) and value in known):
            raise _Wrong(f"identity.precision.{name} is {_short(value)}")
    return identity


def _files(found: Any, layout: Layout) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of exactly the files of the layout."""
    if not isinstance(found, dict):
        raise _Wrong("files is no mapping")
    # A name at a time: a manifest may speak of any number of views.
    count = 0
    for view in range(layout.views):
        for name in layout.files(view):
            if name not in found:
                raise _Wrong(f"it lists no {name}")
            entry = found[name] if isinstance(found[name], dict) else {}
            if type(entry.get("bytes")) is not int or not isinstance(entry.get("sha256"), str):
                raise _Wrong(f"files.{name} is {_short(found[name])}")
            count += 1
    if len(found) > count:
        expected = {name for view in range(layout.views) for name in layout.files(view)}
        raise _Wrong(f"it lists {_short(min(found.keys() - expected))}, which is no file of such a cache")
    return found


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises InputError for a file that is missing, leads out of the folder, or is not as large as was written."""
    layout, place = manifest.layout, folder.resolve()
    shapes = {name: shape for view in range(layout.views) for name, shape in layout.files(view).items()}
    for name, (dtype, columns) in shapes.items():
        path, size, data = folder / name, manifest.files[name]["bytes"], dtype.itemsize * columns * layout.samples
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                found = path.stat()
                if not path.resolve().is_relative_to(place):
                    raise InputError(f"teacher cache {folder}: {name} is a link that leads out of it")
        except OSError:
            raise InputError(f"teacher cache {folder}: {name} is missing") from None
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"teacher cache {folder}: {name} is no plain file")
        if found.st_size != size:
            raise InputError(f"teacher cache {folder}: {name} has {found.st_size} bytes, {size} were written")
        if not data < size <= data + HEADER:
            raise InputError(f"teacher cache {folder}: {name} has {size} bytes, its layout asks for {data}")


def check_sum(folder: Path, manifest: Manifest, name: str) -> None:
    """Reads the whole file, which brings it into the page cache. Raises InputError when a bit of it has changed."""
    try:
        with (folder / name).open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"teacher cache {folder}: {name} cannot be read: {error.strerror}") from None
    if found != manifest.files[name]["sha256"]:
        raise InputError(
            f"teacher cache {folder}: {name} is damaged: SHA-256 {found[:12]}..., written was "
            f"{_short(manifest.files[name]['sha256'][:12])}..."
        )


def open_array(folder: Path, manifest: Manifest, name: str, dtype: np.dtype[Any], columns: int) -> NDArray[Any]:
    """The array, memory-mapped. Raises InputError when it is no array of the shape that the manifest says."""
    wanted = (manifest.layout.samples, columns)
    try:
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises nearly anything on damaged headers
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"teacher cache {folder}: {name} cannot be read: {reason}") from None
    if not isinstance(array, np.ndarray):  # an archive of several
        raise InputError(f"teacher cache {folder}: {name} is no array")
    if array.shape != wanted or array.dtype != dtype:
        raise InputError(f"teacher cache {folder}: {name} is {array.dtype} {array.shape}, not {dtype} {wanted}")
    if name.endswith(".index.npy") and not (array.min() >= 0 and array.max() < manifest.layout.classes):
        raise InputError(f"teacher cache {folder}: {name} is damaged: it names classes that there are not")
    return array


def whole(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with what writers of earlier versions do not say."""
    said = identity.get("precision")
    return {**identity, "precision": {**EARLIER, **said}} if isinstance(said, Mapping) else dict(identity)


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """'data.seed is 0 there, 1 here' for every leaf that differs, in order."""
    found: list[str] = []
    for name in sorted({*there, *here}):
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{_printable(name)}.")
        elif a != b:
            found.append(f"{prefix}{_printable(name)} is {_short(a)} there, {_short(b)} here")
    return found


def _printable(text: str) -> str:
    plain = text if text.isprintable() else ascii(text)
    return plain if len(plain) <= MOST_SHOWN else f"{plain[: MOST_SHOWN - 3]}..."


def _short(value: Any) -> str:
    """One line of at most 40 characters."""
    text = _printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= 40 else f"{text[:16]}..."
