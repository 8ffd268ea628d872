"""The index of a large set: paths, labels and sizes in one file, read in a second, where a walk takes minutes.

ROOT/.stillhouse-NAME-SPLIT.index.npz holds no pickle. It is valid as long as the folders that were walked through are
as old as they were then: files that are added, removed or renamed are noticed, files that are overwritten in place are
not (data.index=rebuild). An index that is stale, damaged or of another version is never used.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from pipeline.contracts import InputError
from pipeline.datasets.array_file import read_arrays
from pipeline.datasets.decode import jpeg_size, read_size
from pipeline.datasets.image_set import FileSet
from pipeline.datasets.notes import note
from pipeline.datasets.path_table import PathTable
from pipeline.datasets.plain_files import open_plain
from pipeline.datasets.walk import Walk, age_of
from pipeline.utils.atomic import whole_or_absent

VERSION = 2
WORTH = 20_000  # files: below, a walk takes less than a second
THREADS = 16  # they wait for the disk most of the time
HEADER_BYTES = 1 << 13  # nearly all headers end within; of the others 64 KB are read, then by Pillow

Index = Literal["auto", "off", "rebuild"]
Arrays = dict[str, NDArray[Any]]


def indexed(walk: Walk, fill: Callable[[Walk], None], index: Index) -> FileSet:
    """The set, from its index where there is a valid one, else by walking.

    walk: name, split and root are set, all else is empty; fill: does the walking. index: auto reads a valid index, and
    writes one for more than WORTH files; rebuild writes it in any case; off neither reads nor writes. A root that
    cannot be written costs a note. Raises what `fill` raises.
    """
    if index == "auto":
        known = load(walk)
        if known is not None:
            return known
    fill(walk)
    found = walk.file_set()
    if index == "off" or (index == "auto" and len(found) <= WORTH):
        return found
    found = measured(found)
    try:
        save(found, walk.marks, walk.order)
    except OSError as error:
        note(f"no index can be written into {walk.root} ({error.strerror}): every start walks through its folders")
    return found


def path_of(root: Path, name: str, split: str) -> Path:
    """Where the index of a set lies."""
    return root / f".stillhouse-{name}-{split}.index.npz"


def load(walk: Walk) -> FileSet | None:
    """The set that the index holds; None, with a note unless there is no file, when it is not valid."""
    path = path_of(walk.root, walk.name, walk.split)
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path)
        reason = _stale(arrays, walk)
        if reason is None:
            return _to_set(arrays, walk)
    except Exception as error:  # arrays of other types and shapes than ours: there is always the walk
        reason = f"it is damaged ({' '.join(str(error).split())[:80] or type(error).__name__})"
    note(f"{path} is not used: {reason}")
    return None


def save(found: FileSet, marks: Mapping[str, int], order: str = "") -> Path:
    """Writes the index: it is there whole, or as it was. marks, order: of the walk. Raises OSError."""
    path = path_of(found.root, found.name, found.split)
    table = found.paths if isinstance(found.paths, PathTable) else packed(found.paths)
    unknown_N2 = np.zeros((len(found), 2), np.int32)
    arrays = {
        "header": np.array([str(VERSION), found.name, found.split, order]),
        "marks": _lines(marks),
        "age_M": np.array(list(marks.values()), dtype=np.int64),
        "class_names": _lines(found.class_names),
        "label_N": found.label_N.astype(np.int32),
        "folders": _lines(table.folders),
        "folder_N": table.folder_N,
        "name_bytes": table.name_bytes,
        "stop_N": table.stop_N,
        "size_N2": unknown_N2 if found.size_N2 is None else found.size_N2,
        "byte_N": unknown_N2[:, 0] if found.byte_N is None else found.byte_N,
        "offset_N": np.zeros(1, np.int64),  # of the image in its file, for all: they are plain files
    }
    with whole_or_absent(path) as handle:
        np.savez(handle, allow_pickle=False, **arrays)
    return path


def packed(paths: Sequence[str]) -> PathTable:
    """Paths with forward slashes as a table."""
    return PathTable.pack((folder, [name]) for folder, _, name in (path.rpartition("/") for path in paths))


def measured(found: FileSet) -> FileSet:
    """`found` with the sizes from all headers; an image without a readable header keeps an unknown size."""

    def measure(path: str) -> tuple[int, int, int]:
        file = found.root / path
        with contextlib.suppress(OSError, InputError, MemoryError), open_plain(file) as handle:
            size = jpeg_size(handle.read(HEADER_BYTES)) or read_size(file)
            return *size, os.fstat(handle.fileno()).st_size
        return 0, 0, 0

    console = Console(stderr=True)
    shown = console.is_terminal and len(found) > WORTH
    if len(found) > WORTH:
        note(f"reading the sizes of {len(found):,} images for the index of {found.root}; later starts are spared it")
    size_N3 = np.zeros((len(found), 3), np.int64)
    with ThreadPoolExecutor(THREADS) as pool:
        step = 4096  # pool.map takes all its input at once: a million waiting jobs are a gigabyte
        for first in track(range(0, len(found), step), "sizes", console=console, disable=not shown, transient=True):
            rows = list(pool.map(measure, found.paths[first : first + step]))
            size_N3[first : first + len(rows)] = rows
    return replace(found, size_N2=size_N3[:, :2].astype(np.int32), byte_N=size_N3[:, 2].copy())


def _stale(arrays: Arrays, walk: Walk) -> str | None:
    """Why the index does not tell of what is there now."""
    if arrays["header"].tolist() != [str(VERSION), walk.name, walk.split, walk.order]:
        return "it is of another set or version"
    for mark, age in zip(_names(arrays["marks"]), arrays["age_M"].tolist(), strict=True):
        if age_of(walk.root, mark) != age:
            return f"{walk.root / mark} has changed"
    return None


def _to_set(arrays: Arrays, walk: Walk) -> FileSet:
    """Raises ValueError when the arrays do not fit together."""
    table = PathTable(_names(arrays["folders"]), arrays["folder_N"], arrays["name_bytes"], arrays["stop_N"])
    class_names, label_N = _names(arrays["class_names"]), arrays["label_N"].astype(np.int64)
    fits = label_N.shape == (len(table),) and arrays["size_N2"].shape == (len(table), 2)
    if not fits or arrays["byte_N"].shape != (len(table),) or len(table) == 0:
        raise ValueError("arrays of unequal length")
    if any(arrays[name].dtype.kind not in "iu" for name in ("label_N", "folder_N", "stop_N", "size_N2", "byte_N")):
        raise ValueError("numbers that are not whole")
    if label_N.min() < 0 or label_N.max() >= len(class_names):
        raise ValueError("a label without a class")
    return FileSet(
        name=walk.name,
        split=walk.split,
        label_N=label_N,
        class_names=class_names,
        root=walk.root,
        paths=table,
        size_N2=arrays["size_N2"],
        byte_N=arrays["byte_N"],
    )


def _lines(names: Iterable[str]) -> NDArray[np.uint8]:
    """Names as bytes, each ended by a zero, which no file name holds."""
    return np.frombuffer(b"".join(os.fsencode(name) + b"\0" for name in names), np.uint8)


def _names(text: NDArray[np.generic]) -> tuple[str, ...]:
    return tuple(os.fsdecode(name) for name in text.astype(np.uint8, copy=False).tobytes().split(b"\0")[:-1])
