"""Tiny-ImageNet (Stanford CS231n 2015): 200 classes, 100,000 + 10,000 images of 64 px, as published or sorted anew.

root/wnids.txt; root/train/WNID/images/* (or train/WNID/*); root/val/images/* with root/val/val_annotations.txt, or
root/val/WNID/images/* (or val/WNID/*), which is what most users make of it. The published test images have no labels:
the test split is val. Cut copies exist, so counts are not compared with the published ones.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.archives import Archive, download, unpack
from pipeline.datasets.entries import Listing, listing
from pipeline.datasets.image_set import FileSet, check_split
from pipeline.datasets.index_file import Index, indexed
from pipeline.datasets.text_tables import read_table
from pipeline.datasets.walk import Group, Walk, by_label, class_names_in

ARCHIVE = Archive(
    file="tiny-imagenet-200.zip",
    folder="tiny-imagenet-200",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    base_url="http://cs231n.stanford.edu/",
)
WNIDS, ANNOTATIONS, IMAGES = "wnids.txt", "val_annotations.txt", "images"
EXTENSIONS = (".jpeg", ".jpg", ".png")
FOLDERS = {"train": "train", "test": "val"}


@DATASETS.register("tiny_imagenet", "tiny-imagenet", "tinyimagenet", "tiny")
def load_tiny_imagenet(
    root: Path | None = None, split: str = "train", download: bool = False, index: Index = "auto"
) -> FileSet:
    """Classes are the sorted wnids (wnids.txt is not sorted); files are sorted by class, then name, as torchvision's.

    index: see index_file.py. Raises InputError, one line: no wnids.txt, a class without images, a validation image
    without a label or the other way round, an unknown class.
    """
    check_split(split)
    try:
        folder = _folder(root, download)
        return indexed(Walk(name="tiny_imagenet", split=split, root=folder), _fill, index)
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror}") from None


def _fill(walk: Walk) -> None:
    part = walk.root / FOLDERS[walk.split]
    walk.mark(WNIDS, part, part / IMAGES, part / ANNOTATIONS)
    walk.class_names = wnids = _read_wnids(walk.root / WNIDS)
    walk.groups = list(_groups(walk, part, wnids))
    empty = sorted(set(range(len(wnids))) - {group.label for group in walk.groups})
    if empty:
        raise InputError(f"class {wnids[empty[0]]!r} is empty: no image of it in {part}")


def _folder(root: Path | None, fetch: bool) -> Path:
    """The folder that holds wnids.txt: `root` or root/tiny-imagenet-200."""
    if root is None:
        raise InputError(
            f"tiny_imagenet needs data.root: the folder that holds {WNIDS}, train/ and val/, or its parent"
        )
    for folder in (root, root / ARCHIVE.folder):
        if (folder / WNIDS).is_file():
            return folder
    packed = root / ARCHIVE.file
    if fetch and not packed.is_file():
        download(ARCHIVE, root)
    if packed.is_file():
        return unpack(ARCHIVE, packed)
    above = next((up for up in root.resolve().parents if (up / WNIDS).is_file()), None)
    hint = f"data.root={above} holds one" if above else f"get {ARCHIVE.base_url}{ARCHIVE.file}, or data.download=true"
    raise InputError(
        f"no {WNIDS} in {root} or {root / ARCHIVE.folder}: {hint} (a copy without it is read by dataset=folder)"
    )


def _read_wnids(path: Path) -> tuple[str, ...]:
    """All classes, sorted."""
    wnids = read_table(path).split()
    doubled = next((wnid for wnid, count in Counter(wnids).items() if count > 1), None)
    if not wnids or doubled:
        raise InputError(f"{path} " + (f"lists class {doubled!r} twice" if doubled else "lists no class"))
    return tuple(sorted(wnids))


def _groups(walk: Walk, part: Path, wnids: tuple[str, ...]) -> Iterator[Group]:
    """The images below `part`, by class."""
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    entries = set(class_names_in(part))
    sorted_anew = [wnid for wnid in wnids if wnid in entries]
    if walk.split == "test" and not sorted_anew:
        yield from by_label(_annotated(walk, part, label_of), f"{part.name}/{IMAGES}")
        return
    unknown = sorted(entries - label_of.keys() - {IMAGES})
    if unknown:
        raise InputError(f"{part / unknown[0]} is no class of {walk.root / WNIDS}")
    left = _images(listing(part / IMAGES)) if IMAGES in entries else set()
    if left:
        raise InputError(f"{part} is half sorted: classes have folders, but {len(left)} images are still in {IMAGES}/")
    for wnid in sorted_anew:
        below, found = wnid, walk.enter(part / wnid, of=wnid)
        walk.mark(part / wnid / IMAGES)
        if IMAGES in found.folders:
            below, found = f"{wnid}/{IMAGES}", walk.enter(part / wnid / IMAGES, of=wnid)
        names = sorted(_images(found))
        if names:
            yield Group(label_of[wnid], f"{part.name}/{below}", names)


def _annotated(walk: Walk, part: Path, label_of: dict[str, int]) -> Iterator[tuple[int, str]]:
    """(label, name) in val/images as published, by val_annotations.txt: file, wnid, box, separated by tabs."""
    table = part / ANNOTATIONS
    if not table.is_file():
        raise InputError(f"{part} holds neither {ANNOTATIONS} nor a folder for each class")
    present, listed = _images(walk.enter(part / IMAGES)), set()
    for number, line in enumerate(read_table(table).splitlines(), start=1):
        if not line.strip():
            continue
        name, wnid = (part.strip() for part in [*line.split("\t"), ""][:2])
        if wnid not in label_of:
            raise InputError(f"{table}, line {number}: {wnid!r} is no class of {part.parent / WNIDS}")
        if name not in present or name in listed:
            fault = "is listed twice" if name in listed else f"is not in {part / IMAGES}"
            raise InputError(f"{table}, line {number}: {name!r} {fault}")
        listed.add(name)
        yield label_of[wnid], name
    if len(listed) != len(present):
        raise InputError(f"{table} lists {len(listed)} images, {part / IMAGES} holds {len(present)}")


def _images(found: Listing) -> set[str]:
    return {name for name in found.files if name.lower().endswith(EXTENSIONS)}
