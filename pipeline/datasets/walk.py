"""What a walk through the folders of a data set finds."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.contracts import InputError
from pipeline.datasets.entries import Listing, Trail, listing
from pipeline.datasets.image_set import FileSet
from pipeline.datasets.path_table import PathTable

ABSENT, UNSURE = -1, -2  # in the place of a time
# File systems date changes in steps of up to 10 ms: a second change within the same step would go unnoticed.
STEP_NS = 50_000_000
SPLIT_FOLDERS = ("train", "val", "test")
SMALL = 10_000  # files; a tuple of paths is plainer and faster, and costs little


class Group(NamedTuple):
    """Some files of one class. folder: below the root of the set, with forward slashes; names: in order."""

    label: int
    folder: str
    names: Sequence[str]


@dataclass(kw_only=True)
class Walk:
    """Of the split of a data set below `root`.

    order: of the classes, where the set has several. groups: the files, in the order of the set; marks: the folders and
    tables below `root` on which the walk depends (also those that it looked for in vain), and how old they were: when
    none changes, another walk finds the same.
    """

    name: str
    split: str
    root: Path
    order: str = ""
    class_names: Sequence[str] = ()
    groups: list[Group] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    _trail: Trail | None = None
    _class_of: dict[str, str] | None = None  # by the folder without links

    def enter(self, folder: Path, of: str | None = None) -> Listing:
        """What lies in `folder`, whose images are of class `of` (None: a table tells).

        Raises InputError where links make images count twice or under a wrong label: the folder was read before, lies
        above itself, or holds a link into the folder of another class, in whatever split.
        """
        self.mark(folder)
        self._trail = self._trail or Trail(self.root)
        self._trail.enter(folder)
        found = listing(folder)
        for name in sorted(found.links - found.lost if of is not None else ()):
            led_to = self._class_at(folder / name)
            if led_to not in (None, of):
                raise InputError(f"{folder / name} is a link into class {led_to!r}: its label would be wrong")
        return found

    def _class_at(self, link: Path) -> str | None:
        """The class in whose folder lies what a link leads to."""
        assert self._trail is not None
        real = self._trail.target(link)
        if self._class_of is None:
            self._class_of = {
                self._trail.real(folder / name): name
                for folder in (self.root / split for split in SPLIT_FOLDERS)
                if folder.is_dir()
                for name in listing(folder).folders
            }
        known = self._class_of
        return next((known[str(above)] for above in (real, *real.parents) if str(above) in known), None)

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


def class_names_in(folder: Path) -> list[str]:
    """Sorted names of the class folders in `folder`. Raises InputError for a link that leads nowhere; OSError."""
    found = listing(folder)
    if found.lost:
        raise InputError(f"{folder / min(found.lost)} is a link that leads nowhere: a class may be missing")
    return sorted(found.folders)
