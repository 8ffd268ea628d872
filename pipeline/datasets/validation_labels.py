"""The classes of ImageNet's validation images, which are published in one folder, from the tables that people have.

Told apart by what they hold, not by their names:

* LOC_val_solution.csv (Kaggle): `ImageId,PredictionString`, an image and its wnid, boxes behind it;
* val.txt and the like: an image and its wnid, or its number among the sorted wnids from 0, separated by space or comma;
* imagenet_2012_validation_synset_labels.txt and the like: a wnid per line, for the images in the order of their names;
* ILSVRC2012_validation_ground_truth.txt (devkit): an ILSVRC2012_ID per line, from 1. What wnid it stands for is
  published in meta.mat, which holds MATLAB objects and is not read here: a text table must stand beside it, with a
  line `wnid` or `wnid number ...` (map_clsloc.txt of the later devkits) for each of the 1,000 classes in this order.

Numbers in a file's name (ILSVRC2012_val_00000007) count where a table has a line per image, so cut copies work.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.contracts import InputError
from pipeline.datasets.text_tables import read_table

WNID = re.compile(r"n[0-9]{8}")
ID = re.compile(r"[0-9]{1,9}")
NUMBER = re.compile(r"_(\d{8})(?:_n\d{8})?(?:\.|$)")
TABLES = (
    "LOC_val_solution.csv",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)
CLASS_TABLES = ("map_clsloc.txt", "synsets_by_id.txt")
BELOW = ("", "devkit", "devkit/data", "ILSVRC2012_devkit_t12/data", "data")


def find_table(folders: Iterable[Path]) -> Path | None:
    """The first table of labels in one of the folders, or in a devkit there."""
    for folder in folders:
        for place in (folder / below / name for name in TABLES for below in BELOW):
            if place.is_file():
                return place
    return None


def wnids_of(names: Sequence[str], table: Path, wnids: Sequence[str]) -> dict[str, str]:
    """The wnid of each image file of `names`. wnids: all known classes, sorted.

    Raises InputError, one line, when the table does not tell it, is none or cannot be read.
    """
    text = read_table(table).replace('"', "")
    rows = [re.split(r"[\s,;]+", line.strip()) for line in text.splitlines() if line.strip()]
    rows = [row for row in rows if row[0] != "ImageId"]
    if not rows:
        raise InputError(f"{table} is empty: expected the classes of the validation images")
    if len(rows[0]) > 1:
        listed = {_stem(row[0]): row[1] for row in rows if len(row) > 1}
        told = {name: listed.get(_stem(name)) for name in names}
    else:
        told = _by_position(names, [row[0] for row in rows], table)
    unknown = next((name for name in names if told[name] is None), None)
    if unknown is not None:
        raise InputError(f"{table} does not tell the class of {unknown}")
    return _as_wnids({name: str(value) for name, value in told.items()}, table, wnids, from_one=len(rows[0]) == 1)


def _by_position(names: Sequence[str], values: list[str], table: Path) -> dict[str, str | None]:
    numbers = [int(found.group(1)) if (found := NUMBER.search(name)) else 0 for name in names]
    if all(0 < number <= len(values) for number in numbers):
        return {name: values[number - 1] for name, number in zip(names, numbers, strict=True)}
    if len(names) != len(values):
        raise InputError(f"{table} has {len(values)} lines for {len(names)} validation images")
    return dict(zip(sorted(names), values, strict=True))


def _as_wnids(told: Mapping[str, str], table: Path, wnids: Sequence[str], from_one: bool) -> dict[str, str]:
    known = set(wnids)
    # One number a line is an ILSVRC2012_ID, whatever the class folders are called.
    if all(WNID.fullmatch(v) or (v in known and not (from_one and v.isdecimal())) for v in told.values()):
        return dict(told)
    order = _classes_by_id(table) if from_one else list(wnids)
    wrong = next((v for v in told.values() if not ID.fullmatch(v) or not 0 <= int(v) - from_one < len(order)), None)
    if wrong is not None:
        raise InputError(f"{table}: {wrong!r} is neither a wnid nor the number of one of {len(order)} classes")
    return {name: order[int(value) - from_one] for name, value in told.items()}


def _classes_by_id(table: Path) -> list[str]:
    """Wnids in the order of ILSVRC2012_ID, from the text table beside the ground truth."""
    for path in (table.with_name(name) for name in CLASS_TABLES):
        if path.is_file():
            rows = [line.split() for line in read_table(path).splitlines() if line.strip()]
            if all(len(row) > 1 and ID.fullmatch(row[1]) for row in rows):
                rows.sort(key=lambda row: int(row[1]))
            return [row[0] for row in rows]
    raise InputError(
        f"{table} numbers the classes as meta.mat does, which is not read: put {' or '.join(CLASS_TABLES)} (a wnid per "
        f"line, in the order of ILSVRC2012_ID) beside it, or use {TABLES[0]} or another table of wnids"
    )


def _stem(name: str) -> str:
    """Without folder and extension."""
    return re.sub(r"\.(jpe?g|png)$", "", name.rpartition("/")[2], flags=re.IGNORECASE)
