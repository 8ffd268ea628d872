"""A folder of images, one sub-folder per class: root/train/CLASS/* and root/val/CLASS/* (or root/test)."""

import os
from pathlib import Path

import numpy as np

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.image_set import FileSet, check_split

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
FOLDERS = {"train": ("train",), "test": ("val", "test")}
LAYOUT = "expected {root}/train/CLASS/* and {root}/val/CLASS/* (or {root}/test), one folder per class"


@DATASETS.register("folder", "imagefolder", "image_folder")
def load_folder(root: Path | None = None, split: str = "train", download: bool = False) -> FileSet:
    """Classes sorted by name, numbered by the training folders; files sorted by folder, then name, as in torchvision.

    Hidden files and other extensions are passed over. Raises InputError on a missing folder, an empty class, and a
    test class that has no training folder. `download` has no meaning here and is refused.
    """
    check_split(split)
    if root is None or download:
        raise InputError("dataset=folder reads what is there: " + LAYOUT.format(root="data.root"))
    try:
        return _load(root, split)
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror}") from None


def _load(root: Path, split: str) -> FileSet:
    train = _split_folder(root, "train")
    folder = train if split == "train" else _split_folder(root, split)
    class_names = _classes(train)
    present = class_names if folder == train else _classes(folder)
    unknown = sorted(set(present) - set(class_names))
    if unknown:
        raise InputError(f"{folder}/{unknown[0]} has no counterpart in {train}: its class is unknown")
    label_of = {name: label for label, name in enumerate(class_names)}
    paths: list[str] = []
    labels: list[int] = []
    for name in present:
        found = _images(folder / name)
        if not found:
            raise InputError(f"class {name!r} is empty: no image in {folder / name} ({' '.join(EXTENSIONS)})")
        paths += [path.relative_to(root).as_posix() for path in found]
        labels += [label_of[name]] * len(found)
    return FileSet(
        name="folder",
        split=split,
        label_N=np.array(labels, dtype=np.int64),
        class_names=tuple(class_names),
        root=root,
        paths=tuple(paths),
    )


def _split_folder(root: Path, split: str) -> Path:
    for name in FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"no {' or '.join(FOLDERS[split])} folder in {root}: " + LAYOUT.format(root=root))


def _classes(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"no class folder in {folder}: " + LAYOUT.format(root=folder.parent))
    return names


def _images(folder: Path) -> list[Path]:
    found: list[Path] = []
    for here, _, files in sorted(os.walk(folder, followlinks=True)):
        keep = (file for file in sorted(files) if file.lower().endswith(EXTENSIONS) and not file.startswith("."))
        found += [Path(here) / file for file in keep]
    return found
