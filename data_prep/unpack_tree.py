"""From archives, archives of archives or folders to a tree: whole or not there, gone on with where it was killed.

A split grows in .SPLIT.partial, a class of it in a folder of the same kind, a file under a temporary name; each is
renamed when it is whole. Started again, what is whole is passed over, so the tree is the same as after one run.
"""

import contextlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.contracts import InputError, NotWritten
from pipeline.datasets.archives import DAMAGED, Member, members, safe_name
from pipeline.datasets.downloads import CHUNK
from pipeline.datasets.entries import files_below as plain_files_below
from pipeline.datasets.entries import hides, is_hidden
from pipeline.datasets.plain_files import open_plain
from pipeline.utils.atomic import disk_refuses

EXTENSIONS = (".jpeg", ".jpg", ".png")
SOURCE = ".source"  # in a growing split: what it is made of

Place = Callable[[PurePosixPath], PurePosixPath | None]
Told = Callable[[int], None]
Watch = Callable[[str, int | None], Told]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What becomes one folder, or (folder '') the whole split. place: where a member goes inside it, None = nowhere."""

    folder: str
    source: Path
    read: Callable[[], contextlib.AbstractContextManager[Iterator[Member]]]
    place: Place


def unpack_split(target: Path, source: Path, units: list[Unit], workers: int, watch: Watch) -> None:
    """`target`, the folder of a split, from its units, `workers` at a time. One that is there already is left alone.

    watch: makes what is told of the progress, which is that of the units, or of the files where there is one unit.
    Raises InputError: damaged archives, members that lead outside, a part of another source; OSError of the disk.
    """
    if target.exists():
        return
    growing = target.with_name(f".{target.name}.partial")
    _claim(growing, source)
    told = watch(target.name, len(units) if len(units) > 1 else None)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [pool.submit(_unpack, unit, growing, told if len(units) == 1 else _untold) for unit in units]
        try:
            for done in waiting:
                done.result()
                told(int(len(units) > 1))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    (growing / SOURCE).unlink()
    os.sync()  # once: a million files synced one by one take hours
    growing.rename(target)


def _claim(growing: Path, source: Path) -> None:
    """Of two archives nothing is mixed."""
    note, known = growing / SOURCE, f"{source.name}\n"
    growing.mkdir(parents=True, exist_ok=True)
    begun = any(path != note for path in growing.iterdir())
    if begun and note.exists() and note.read_text() != known:
        raise InputError(f"{growing} is a part of {note.read_text().strip()}, not of {source.name}: delete it")
    note.write_text(known)


def _untold(done: int) -> None:
    pass


def _unpack(unit: Unit, growing: Path, told: Told) -> None:
    target = growing / unit.folder
    inside = target.with_name(f".{target.name}.partial") if unit.folder else growing
    if unit.folder and target.exists():
        return
    seen: set[PurePosixPath] = set()
    with read_safely(unit.source), unit.read() as found:
        for member in found:
            name = safe_name(member, unit.source, None)
            place = unit.place(name) if member.plain else None
            if place in seen:
                raise InputError(f"{unit.source} holds {str(name)!r} twice")
            if place is not None:
                seen.add(place)
                _write(member, inside / place)
                told(1)
    if not seen:
        raise InputError(f"{unit.source} holds no image{f' of {unit.folder}' if unit.folder else ''}")
    if unit.folder:
        inside.rename(target)


def _write(member: Member, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    source = member.open()
    assert source is not None  # a plain file
    with source, temporary.open("wb") as handle:
        shutil.copyfileobj(source, handle, CHUNK)
    temporary.replace(target)


@contextlib.contextmanager
def read_safely(source: Path) -> Iterator[None]:
    """Damage of an archive becomes an InputError; OSErrors with a number are the disk's and stay what they are."""
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"could not unpack {source}: {' '.join(str(error).split())}") from None


def is_image(name: PurePosixPath) -> bool:
    """By its name; hidden ones are none, nor what lies in hidden folders (archives made on a Mac are full of them)."""
    return name.suffix.lower() in EXTENSIONS and not hides(name)


def flat(name: PurePosixPath) -> PurePosixPath | None:
    """Images of one class, whatever folder they lie in."""
    return PurePosixPath(name.name) if is_image(name) else None


def by_parent(name: PurePosixPath) -> PurePosixPath | None:
    """CLASS/FILE, whatever lies above. Raises InputError for an image without a folder."""
    if not is_image(name):
        return None
    if len(name.parts) < 2:
        raise InputError(f"{str(name)!r} lies in no class folder")
    return PurePosixPath(*name.parts[-2:])


def class_units(source: Path) -> list[Unit]:
    """Of a training archive of class archives, a folder of them, an archive or a folder of class folders."""
    if source.is_dir():
        tars = sorted(path for path in source.glob("*.tar") if not is_hidden(path.name))
        if not tars:
            return [Unit(folder="", source=source, read=partial(files_below, source), place=by_parent)]
        return [Unit(folder=tar.stem, source=tar, read=partial(members, tar), place=flat) for tar in tars]
    with read_safely(source), members(source) as found:
        named = [(safe_name(member, source, None), member.info) for member in found]
    inner = [(name, info) for name, info in named if name.suffix == ".tar" and not hides(name)]
    if not inner:
        return [Unit(folder="", source=source, read=partial(members, source), place=by_parent)]
    return [
        Unit(folder=name.stem, source=source, read=partial(inner_members, source, info), place=flat)
        for name, info in inner
        if info is not None and info.isfile()
    ]


@contextlib.contextmanager
def inner_members(source: Path, info: tarfile.TarInfo) -> Iterator[Iterator[Member]]:
    """The members of a tar inside the tar `source`."""
    with tarfile.open(source) as outer:
        content = outer.extractfile(info)
        assert content is not None  # a plain file
        with tarfile.open(fileobj=content) as tar:
            yield (Member(m.name, m.isfile(), m.isdir(), partial(tar.extractfile, m)) for m in tar)


@contextlib.contextmanager
def files_below(folder: Path) -> Iterator[Iterator[Member]]:
    """The files below a folder as if they were in an archive, in order; links are followed, hidden ones left out."""
    paths = plain_files_below(folder)
    yield (Member(path.relative_to(folder).as_posix(), True, False, _opener(path)) for path in paths)


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: open_plain(path)


@contextlib.contextmanager
def may_go_on(out: str) -> Iterator[None]:
    """What the machine refuses (a full disk, no permission) in one line: the work is gone on with next time."""
    try:
        yield
    except OSError as error:
        kind = NotWritten if disk_refuses(error) else InputError
        raise kind(f"{error.filename or out}: {error.strerror}; call again to go on") from None
