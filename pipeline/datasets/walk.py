"""What a walk through the folders of a data set finds."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.datasets.image_set import FileSet
from pipeline.datasets.path_table import PathTable

ABSENT, UNSURE = -1, -2  # in the place of a time
# File systems date changes in steps of up to 10 ms: a second change within the same step would go unnoticed.
STEP_NS = 50_000_000
SMALL = 10_000  # files; a tuple of paths is plainer and faster, and costs little


class Group(NamedTuple):
    """Some files of one class. folder: below the root of the set, with forward slashes; names: in order."""

    label: int
    folder: str
    names: Sequence[str]


@dataclass(kw_only=True)
class Walk:
    """Of the split of a data set below `root`.

    groups: the files, in the order of the set; marks: the folders and tables below `root` on which the walk depends
    (also those that it looked for in vain), and how old they were: when none changes, another walk finds the same.
    """

    name: str
    split: str
    root: Path
    class_names: Sequence[str] = ()
    groups: list[Group] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)

    def mark(self, *paths: Path | str) -> None:
        """Notes how old paths (below `root`, or relative to it) are: to be called before they are read."""
        for path in paths:
            below = os.path.relpath(self.root / path, self.root)
            age = age_of(self.root, below)
            self.marks[below] = UNSURE if abs(time.time_ns() - age) < STEP_NS else age

    def file_set(self) -> FileSet:
        """The set of what was found."""
        count = [len(group.names) for group in self.groups]
        table = PathTable.pack((group.folder, group.names) for group in self.groups)
        return FileSet(
            name=self.name,
            split=self.split,
            label_N=np.repeat(np.array([group.label for group in self.groups], dtype=np.int64), count),
            class_names=tuple(self.class_names),
            root=self.root,
            paths=table if len(table) > SMALL else tuple(table),
        )


def age_of(root: Path, below: str) -> int:
    """Time of the last change, ns; ABSENT when it is not there."""
    try:
        return (root / below).stat().st_mtime_ns
    except OSError:
        return ABSENT


def by_label(labelled: Iterable[tuple[int, str]], folder: str) -> list[Group]:
    """Groups of (label, name) in one folder, ordered by label, then name."""
    names: dict[int, list[str]] = {}
    for label, name in sorted(labelled):
        names.setdefault(label, []).append(name)
    return [Group(label, folder, found) for label, found in names.items()]


def names_in(folder: Path, folders: bool) -> set[str]:
    """Names of the files (or of the folders) in `folder` that are not hidden."""
    with os.scandir(folder) as entries:
        return {e.name for e in entries if not e.name.startswith(".") and e.is_dir() == folders}
