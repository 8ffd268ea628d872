"""What lies in a folder: folders, plain files and links, without what was never meant to be part of a data set.

Left out in silence: hidden names (.ipynb_checkpoints, .git, ._x.jpg) and what archivers, network drives and desktops
leave behind (LEFTOVERS). Left out with a line: FIFOs, sockets, devices. Links are followed, but no folder is read twice
and none from inside itself.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from pipeline.contracts import InputError
from pipeline.datasets.notes import note_once
from pipeline.datasets.plain_files import kind_of

LEFTOVERS = frozenset(
    {
        "__macosx",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "@__thumb",
        "@tmp",
        "@sharebin",
        "network trash folder",
        "temporary items",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "lost.dir",
        "__pycache__",
        "thumbs.db",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
    }
)


class Listing(NamedTuple):
    """Names in a folder. links: those of folders and files that are links; lost: links that lead nowhere."""

    folders: set[str]
    files: set[str]
    links: set[str]
    lost: set[str]


def is_hidden(name: str) -> bool:
    """Whether an entry of that name is no part of a data set."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def hides(path: PurePath) -> bool:
    """Whether any part of a relative path is hidden."""
    return any(is_hidden(part) for part in path.parts)


def listing(folder: Path) -> Listing:
    """The entries of `folder` that are not hidden; a line for those that are neither files nor folders.

    A link that leads nowhere counts as a file too: an image that is lost is an error when it is read, not less data.
    """
    found = Listing(set(), set(), set(), set())
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_hidden(entry.name):
                _sort_in(entry, found)
    return found


def _sort_in(entry: os.DirEntry[str], found: Listing) -> None:
    try:
        folder, file = entry.is_dir(), entry.is_file()
    except OSError:  # links in a circle, or through a folder that may not be read
        folder = file = False
    if entry.is_symlink():
        found.links.add(entry.name)
        if not folder and not file and not _leads_to_something(entry):
            found.lost.add(entry.name)
            file = True
    if folder or file:
        (found.folders if folder else found.files).add(entry.name)
    else:
        _tell(entry)


def _leads_to_something(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError:
        return False
    return True


def _tell(entry: os.DirEntry[str]) -> None:
    kind = kind_of(entry.stat().st_mode) or "something else"
    note_once(f"{entry.path} is no plain file, but {kind}: it is left out")


class Trail:
    """The folders that were read, none of them twice.

    A link to a folder above makes a circle; a second way to a folder would count its images twice, under two labels
    where the ways lie in two classes.
    """

    def __init__(self, root: Path) -> None:
        real = os.path.realpath(root)
        self._above = {real, *map(str, Path(real).parents)}
        self._read: dict[str, Path] = {}
        self._real: dict[Path, str] = {}

    def real(self, folder: Path) -> str:
        """The path of a folder without links."""
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def target(self, link: Path) -> Path:
        """Where a link leads; of many links into one folder, its path is found once."""
        led_to = Path(self.real(link.parent)) / link.readlink()
        if led_to.name in ("", "..") or led_to.is_symlink():
            return Path(os.path.realpath(led_to))
        return Path(self.real(led_to.parent), led_to.name)

    def enter(self, folder: Path) -> None:
        """To be called before a folder is read. Raises InputError when it was read before, or lies above."""
        self._above.add(self.real(folder.parent))
        real = self.real(folder)
        if real in self._read:
            raise InputError(f"{folder} and {self._read[real]} are one folder ({real}): its images would count twice")
        if real in self._above:
            raise InputError(f"{folder} is a link to {real}, a folder above it: its images would count twice")
        self._read[real] = folder


def files_below(folder: Path) -> list[Path]:
    """The plain files in a folder and the folders inside, by folder, then name. Raises InputError, OSError."""
    return sorted(here / name for here, found in walk_below(folder, Trail(folder.parent)) for name in found.files)


def walk_below(folder: Path, trail: Trail) -> Iterator[tuple[Path, Listing]]:
    """(folder, what is in it) for `folder` and all inside, each before those inside it. Raises InputError, OSError."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        trail.enter(here)
        found = listing(here)
        yield here, found
        waiting += [here / name for name in sorted(found.folders, reverse=True)]
