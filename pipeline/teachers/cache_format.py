"""The teacher cache on disk: a folder of one array per view and stream, and a manifest that says what it is of.

docs/teacher_cache.md tells it byte by byte. Files of others are data: JSON, and .npy read without pickle.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.teachers.codecs import POOLED, Codec, codec_of

FORMAT, VERSION = "stillhouse-teacher-cache", 1
MANIFEST = "manifest.json"
KINDS = ("logits", "pooled")
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

    def text(self) -> str:
        """As written: the same for equal caches."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError: no cache there, an unfinished one, one of another version, a damaged manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        state = "is not finished: run cache_teacher.py again" if (folder / ".parts").is_dir() else "holds no cache"
        raise InputError(f"teacher.cache={folder} {state} (no {MANIFEST})")
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise InputError(f"{path} is a {content['format']} of version {content['version']}, not {FORMAT} {VERSION}")
        layout = Layout(**{**content["layout"], "streams": tuple(content["layout"]["streams"])})
        identity = dict(content["identity"])
        if "precision" in identity:  # manifests say it since teachers are folded
            identity["precision"] = {"fold": False} | identity["precision"]
        manifest = Manifest(layout=layout, identity=identity, files=dict(content["files"]))
        expected = {name for view in range(layout.views) for name in layout.files(view)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    unlisted = sorted(expected - manifest.files.keys())
    if unlisted:
        raise InputError(f"{path} is damaged: it lists no {unlisted[0]}")
    return manifest


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises InputError for a file that is missing or has not its size."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"teacher cache {folder}: {name} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise InputError(
                f"teacher cache {folder}: {name} has {path.stat().st_size} bytes, {entry['bytes']} were written"
            )


def check_sum(folder: Path, manifest: Manifest, name: str) -> None:
    """Reads the whole file, which brings it into the page cache. Raises InputError when a bit of it has changed."""
    with (folder / name).open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != manifest.files[name]["sha256"]:
        raise InputError(
            f"teacher cache {folder}: {name} is damaged: SHA-256 {found[:12]}..., written was "
            f"{manifest.files[name]['sha256'][:12]}..."
        )


def open_array(folder: Path, manifest: Manifest, name: str, dtype: np.dtype[Any], columns: int) -> NDArray[Any]:
    """The array, memory-mapped. Raises InputError when it is no array of the shape that the manifest says."""
    wanted = (manifest.layout.samples, columns)
    try:
        array: NDArray[Any] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"teacher cache {folder}: {name} cannot be read: {error}") from None
    if array.shape != wanted or array.dtype != dtype:
        raise InputError(f"teacher cache {folder}: {name} is {array.dtype} {array.shape}, not {dtype} {wanted}")
    return array


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """'data.seed is 0 there, 1 here' for every leaf that differs, in order."""
    found: list[str] = []
    for name in sorted({*there, *here}):
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name} is {_short(a)} there, {_short(b)} here")
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
