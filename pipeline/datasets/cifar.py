"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official python archives; the order is that of the files.

Re-ordered and cut copies exist, so the files of an unpacked folder are not checksummed; their shapes, counts and label
ranges are checked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, safe_pickle
from pipeline.datasets.archives import Archive, download, unpack
from pipeline.datasets.image_set import ArraySet, check_split

BASE_URL = "https://www.cs.toronto.edu/~kriz/"
SIDE = 32  # pixels; a row of `data` is 3 planes of SIDE x SIDE


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an archive holds. files: by split; label_keys, names_key: where labels and class names stand."""

    name: str
    classes: int
    archive: Archive
    files: dict[str, tuple[str, ...]]
    meta: str
    label_key: str
    names_key: str


CIFAR10 = Layout(
    name="cifar10",
    classes=10,
    archive=Archive(
        file="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        md5="c58f30108f718f92721af3b95e74349a",
        base_url=BASE_URL,
    ),
    files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    label_key="labels",
    names_key="label_names",
)
CIFAR100 = Layout(
    name="cifar100",
    classes=100,
    archive=Archive(
        file="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        base_url=BASE_URL,
    ),
    files={"train": ("train",), "test": ("test",)},
    meta="meta",
    label_key="fine_labels",
    names_key="fine_label_names",
)


def load_cifar(layout: Layout, root: Path | None, split: str, fetch: bool = False) -> ArraySet:
    """The set of `split` under `root`: an unpacked folder, its parent, or the folder of the archive.

    Raises InputError when files are missing, damaged or not what the layout says.
    """
    check_split(split)
    folder = _folder(layout, root, split, fetch)
    parts = [_read_batch(folder / file, layout) for file in layout.files[split]]
    return ArraySet(
        name=layout.name,
        split=split,
        label_N=np.concatenate([labels for _, labels in parts]),
        class_names=_class_names(folder / layout.meta, layout),
        pixels_NHWC=np.concatenate([pixels for pixels, _ in parts]),
    )


def _folder(layout: Layout, root: Path | None, split: str, fetch: bool) -> Path:
    archive = layout.archive
    if root is None:
        raise InputError(f"{layout.name} needs data.root: the folder that holds {archive.folder}/ or {archive.file}")
    first = layout.files[split][0]
    packed = root / archive.file
    try:
        for folder in (root / archive.folder, root):
            if (folder / first).is_file():
                return folder
        if fetch and not packed.is_file():
            download(archive, root)
        if packed.is_file():
            return unpack(archive, packed)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error.strerror}") from None
    raise InputError(
        f"no {layout.name} in {root}: expected {archive.folder}/{first} or {archive.file} there; "
        f"get it from {archive.base_url}{archive.file}, or let data.download=true fetch it"
    )


def _read_batch(path: Path, layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """pixels_NHWC, label_N of one file."""
    record = safe_pickle.load(path)
    if not isinstance(record, dict) or not {"data", layout.label_key} <= set(record):
        raise InputError(f"{path} is no {layout.name} file: it lacks 'data' or {layout.label_key!r}")
    data = record["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE * SIDE,):
        raise InputError(f"{path}: 'data' is {_describe(data)}, expected uint8 [N, {3 * SIDE * SIDE}]")
    label_N = _labels(record[layout.label_key], path, layout)
    if len(label_N) != len(data) or len(data) == 0:
        raise InputError(f"{path}: {len(data)} images but {len(label_N)} labels")
    pixels_NHWC = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels_NHWC), label_N


def _labels(values: Any, path: Path, layout: Layout) -> NDArray[np.int64]:
    # A list in a list, and so on: NumPy would count them all.
    flat = isinstance(values, np.ndarray) or (
        isinstance(values, list | tuple) and all(isinstance(v, int | np.ndarray) and np.ndim(v) == 0 for v in values)
    )
    label_N = np.asarray(values) if flat else np.empty(0, dtype=object)
    if label_N.ndim != 1 or label_N.dtype.kind not in "iu":  # numbers beyond 64 bits are objects
        raise InputError(f"{path}: {layout.label_key!r} is not one list of whole numbers")
    outside = label_N[(label_N < 0) | (label_N >= layout.classes)]
    if len(outside):
        raise InputError(f"{path}: label {outside[0]} is outside 0..{layout.classes - 1}")
    return label_N.astype(np.int64)


def _class_names(path: Path, layout: Layout) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(k) for k in range(layout.classes))
    record = safe_pickle.load(path)
    names = record.get(layout.names_key) if isinstance(record, dict) else None
    names = names if isinstance(names, list | tuple) else ()
    if len(names) != layout.classes or not all(isinstance(name, str | bytes | int) for name in names):
        raise InputError(f"{path}: expected {layout.classes} names under {layout.names_key!r}")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names)


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _constructor(layout: Layout) -> Callable[..., ArraySet]:
    def construct(root: Path | None = None, split: str = "train", download: bool = False) -> ArraySet:
        return load_cifar(layout, root, split, download)

    return construct


for _layout in (CIFAR10, CIFAR100):
    DATASETS.register(_layout.name, _layout.name.replace("cifar", "cifar-"))(_constructor(_layout))
