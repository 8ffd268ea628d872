"""A folder of images, one sub-folder per class: root/train/CLASS/* and root/val/CLASS/* (or root/test)."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.image_set import FileSet, check_split
from pipeline.datasets.index_file import Index, indexed
from pipeline.datasets.walk import Group, Walk, class_names_in

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
FOLDERS = {"train": ("train",), "test": ("val", "test")}
LAYOUT = "expected {root}/train/CLASS/* and {root}/val/CLASS/* (or {root}/test), one folder per class"


@DATASETS.register("folder", "imagefolder", "image_folder")
def load_folder(
    root: Path | None = None, split: str = "train", download: bool = False, index: Index = "auto"
) -> FileSet:
    """Classes sorted by name, numbered by the training folders; files sorted by folder, then name, as in torchvision.

    Hidden names and other extensions are passed over (entries.py). Raises InputError on a missing folder, an empty
    class, a test class that has no training folder, and links by which images would count twice or under two labels.
    `download` has no meaning here and is refused. index: see index_file.py.
    """
    check_split(split)
    if root is None or download:
        raise InputError("dataset=folder reads what is there: " + LAYOUT.format(root="data.root"))
    try:
        return indexed(Walk(name="folder", split=split, root=root), _fill, index)
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror}") from None


def _fill(walk: Walk) -> None:
    train = _split_folder(walk, "train")
    folder = train if walk.split == "train" else _split_folder(walk, walk.split)
    walk.class_names = _classes(train)
    present = walk.class_names if folder == train else _classes(folder)
    unknown = sorted(set(present) - set(walk.class_names))
    if unknown:
        raise InputError(f"{folder}/{unknown[0]} has no counterpart in {train}: its class is unknown")
    label_of = {name: label for label, name in enumerate(walk.class_names)}
    for name in present:
        found = list(_images(walk, folder / name, label_of[name]))
        if not found:
            raise InputError(f"class {name!r} is empty: no image in {folder / name} ({' '.join(EXTENSIONS)})")
        walk.groups += found


def _split_folder(walk: Walk, split: str) -> Path:
    for name in FOLDERS[split]:
        walk.mark(name)
        if (walk.root / name).is_dir():
            return walk.root / name
    raise InputError(f"no {' or '.join(FOLDERS[split])} folder in {walk.root}: " + LAYOUT.format(root=walk.root))


def _classes(folder: Path) -> list[str]:
    names = class_names_in(folder)
    if not names:
        raise InputError(f"no class folder in {folder}: " + LAYOUT.format(root=folder.parent))
    return names


def _images(walk: Walk, folder: Path, label: int) -> Iterator[Group]:
    """The images of a class and of the folders inside."""
    waiting, keep = [folder], {}
    while waiting:
        here = waiting.pop()
        found = walk.enter(here, of=folder.name)
        lost = sorted(name for name in found.lost if not Path(name).suffix)
        if lost:
            raise InputError(f"{here / lost[0]} is a link that leads nowhere: images may be missing")
        keep[here.relative_to(walk.root).as_posix()] = sorted(f for f in found.files if f.lower().endswith(EXTENSIONS))
        waiting += [here / name for name in found.folders]
    yield from (Group(label, here, keep[here]) for here in sorted(keep) if keep[here])
