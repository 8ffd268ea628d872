"""ImageNet (ILSVRC 2012, Russakovsky et al. 2015): 1,000 classes, 1,281,167 + 50,000 images, or any part of them.

ROOT/train/WNID/*.JPEG; ROOT/val/WNID/*.JPEG, or ROOT/val/*.JPEG with a table of their classes in ROOT
(validation_labels.py lists what is known) or a devkit there. ROOT may also hold ILSVRC/Data/CLS-LOC (Kaggle's archive).
The classes are the sorted wnids of the training folders, so labels are those of torchvision's ImageFolder; the
published test images have no labels: the test split is val. Files are decoded whatever their names say: one JPEG of
ImageNet is a PNG and 22 have four inks.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.entries import Listing, listing
from pipeline.datasets.image_set import FileSet, check_split
from pipeline.datasets.index_file import Index, indexed
from pipeline.datasets.notes import note_once
from pipeline.datasets.validation_labels import TABLES, WNID, find_table, wnids_of
from pipeline.datasets.walk import Group, Walk, by_label, class_names_in

EXTENSIONS = (".jpeg", ".jpg", ".png")
FOLDERS = {"train": "train", "test": "val"}
PLACES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "ILSVRC2012", "imagenet")
PUBLISHED = {"train": 1_281_167, "test": 50_000}  # images of the 1,000 classes
CLASSES = 1000
WNIDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"  # of the sorted wnids, a line each
EXAMPLE, NUMBERS = "n01440764", "numbers"
NUMBER = re.compile(r"[0-9]{1,9}")
Classes = Literal["wnids", "numbers", "names"]
GET = "data_prep/imagenet.py makes a tree of the archives, which https://image-net.org hands out to those who register"


@DATASETS.register("imagenet", "ilsvrc2012", "imagenet1k", "imagenet-1k")
def load_imagenet(
    root: Path | None = None,
    split: str = "train",
    download: bool = False,
    index: Index = "auto",
    classes: Classes = "wnids",
) -> FileSet:
    """Sorted by class, then by name. index: see index_file.py.

    classes: the folders must be called by wnids; or `numbers`, which count; or `names`, of any kind, in their order.
    Raises InputError, one line: a missing folder, other class folders than these, a class without images, validation
    images of an unknown class or without a table of their classes; `download`, since nobody may hand ImageNet out.
    """
    check_split(split)
    if root is None or download:
        raise InputError(f"imagenet needs data.root=DIR with train/WNID/* and val/, and cannot be downloaded: {GET}")
    try:
        order = NUMBERS if classes == NUMBERS else ""
        walk = Walk(name="imagenet", split=split, root=_tree(root), order=order)
        found = indexed(walk, partial(_fill, root), index)
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    if classes == "wnids":
        check_wnids(found)
    return found


def _tree(root: Path) -> Path:
    """The folder that holds train/."""
    for place in PLACES:
        if (root / place / FOLDERS["train"]).is_dir():
            return root / place
    raise InputError(f"no train folder in {root} (or {', '.join(PLACES[1:])} there): {GET}")


def _fill(given: Path, walk: Walk) -> None:
    """given: data.root, at or above the root of the set; tables of classes lie anywhere between."""
    train, folder = walk.root / FOLDERS["train"], walk.root / FOLDERS[walk.split]
    walk.mark(train, folder)
    walk.class_names = class_names_in(train)
    if walk.order == NUMBERS:
        walk.class_names = _by_number(train, walk.class_names)
    if not walk.class_names:
        raise InputError(f"no class folder in {train}: expected train/WNID/*.JPEG; {GET}")
    if not folder.is_dir():
        raise InputError(f"no {folder.name} folder in {walk.root}: {GET}")
    present = class_names_in(folder)
    if present:
        _by_folders(walk, folder, present)
    else:
        _by_table(walk, folder, given)
    if not walk.groups:
        raise InputError(f"no image in {folder} ({' '.join(EXTENSIONS)})")


def _by_number(train: Path, names: Sequence[str]) -> list[str]:
    """Raises InputError for a folder that is no number, and for two of the same."""
    other = next((name for name in names if not NUMBER.fullmatch(name)), None)
    if other is not None:
        raise InputError(f"{train / other} is no number, as data.classes=numbers says")
    ordered = sorted(names, key=lambda name: (int(name), name))
    doubled = next((pair for pair in pairwise(ordered) if int(pair[0]) == int(pair[1])), None)
    if doubled is not None:
        raise InputError(f"{train} holds number {int(doubled[0])} twice: {doubled[0]} and {doubled[1]}")
    return ordered


def check_wnids(found: FileSet) -> None:
    """Published networks number the classes by their sorted wnids: other names make silent nonsense of them.

    Raises InputError for a class that is not called by a wnid; says when all 1,000 are others than those published.
    """
    names, train = found.class_names, found.root / FOLDERS["train"]
    other = next((name for name in names if not WNID.fullmatch(name)), None)
    if other is not None:
        numbers = all(name.isdecimal() for name in names)
        advice = "numbers takes them in the order of their numbers" if numbers else "names takes any, in their order"
        raise InputError(f"{train / other} is not called by a wnid such as {EXAMPLE}: data.classes={advice}")
    if len(names) == CLASSES and hashlib.sha256("\n".join(names).encode()).hexdigest() != WNIDS_SHA256:
        note_once(f"the {CLASSES:,} classes of {train} are not those of ILSVRC 2012: published networks know others")


def _by_folders(walk: Walk, folder: Path, present: list[str]) -> None:
    label_of = {wnid: label for label, wnid in enumerate(walk.class_names)}
    unknown = next((wnid for wnid in present if wnid not in label_of), None)
    if unknown:
        raise InputError(
            f"{folder / unknown} has no counterpart in {walk.root / FOLDERS['train']}: its class is unknown"
        )
    left = len(images_of(listing(folder)))
    if left:
        raise InputError(f"{folder} is half sorted: classes have folders, but {left} images lie beside them")
    for wnid in sorted(present, key=lambda name: label_of[name]):
        names = images_of(walk.enter(folder / wnid, of=wnid))
        if not names:
            raise InputError(f"class {wnid!r} is empty: no image in {folder / wnid} ({' '.join(EXTENSIONS)})")
        walk.groups.append(Group(label_of[wnid], f"{folder.name}/{wnid}", names))


def _by_table(walk: Walk, folder: Path, given: Path) -> None:
    names = images_of(walk.enter(folder))
    between = [above for above in (walk.root, *walk.root.parents) if above.is_relative_to(given)]
    table = find_table(between)
    if table is None:
        raise InputError(
            f"{folder} has no class folders, and {walk.root} holds no table of classes ({', '.join(TABLES)})"
        )
    walk.mark(table)
    wnid_of = wnids_of(names, table, walk.class_names)
    label_of = {wnid: label for label, wnid in enumerate(walk.class_names)}
    unknown = next((name for name in names if wnid_of[name] not in label_of), None)
    if unknown:
        raise InputError(
            f"{folder / unknown} is of class {wnid_of[unknown]!r}, which has no folder in {walk.root}/train"
        )
    walk.groups = by_label(((label_of[wnid_of[name]], name) for name in names), folder.name)


def images_of(found: Listing) -> list[str]:
    """Names of the image files, sorted."""
    return sorted(name for name in found.files if name.lower().endswith(EXTENSIONS))
