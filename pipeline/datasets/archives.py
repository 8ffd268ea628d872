"""Official archives: where they come from, their checksums, and safe unpacking.

A member that is no plain file or folder (link, device, pipe), or that points outside the folder it is unpacked to,
makes the whole archive refused.
"""

import contextlib
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pipeline.contracts import InputError
from pipeline.datasets.downloads import CHUNK, fetch
from pipeline.datasets.plain_files import check_plain
from pipeline.utils.atomic import take

LEFT_SECONDS = 86_400.0
ZIP_START = b"PK\x03\x04"
# What the readers raise on damaged and cut files, wrong passwords and unknown compression.
DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A tar or zip of one folder. md5: of the archive, hex; base_url ends in '/'; folder: its one top-level folder."""

    file: str
    folder: str
    md5: str
    base_url: str


class Member(NamedTuple):
    """One entry of an archive. plain: a file; folder: a folder; neither: a link, a device, a pipe.

    info: of a tar, finds the entry again without a search.
    """

    name: str
    plain: bool
    folder: bool
    open: Callable[[], IO[bytes] | None]
    info: tarfile.TarInfo | None = None


def check_archive(path: Path) -> None:
    """Raises InputError for a FIFO or a device, which would be read for ever; OSError."""
    try:
        check_plain(path, largest=None)
    except InputError as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def md5_of(path: Path) -> str:
    """Hex MD5 of a file (the sum that its publishers give; no protection against forgery)."""
    check_archive(path)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_sum(path: Path, archive: Archive, source: str) -> None:
    """Raises InputError that names both sums when `path` is not the published file. source: what people know it by."""
    found = md5_of(path)
    if found != archive.md5:
        raise InputError(
            f"{source} has MD5 {found}, the published {archive.file} has {archive.md5}: damaged, or another file"
        )


def download(archive: Archive, root: Path) -> Path:
    """Fetches the archive into `root`, resumed where a former call broke off, and checked. Returns its path.

    Raises InputError without a network, on a wrong checksum, and when `root` cannot be written.
    """
    url = archive.base_url + archive.file
    return fetch(url, root / archive.file, check=lambda part: check_sum(part, archive, url))


def unpack(archive: Archive, path: Path) -> Path:
    """Checks and unpacks the archive file `path` beside itself. Returns the folder.

    The files are written to a temporary folder that is renamed when it is whole: an interrupted run leaves no half
    folder, and of several ranks that unpack at once the first to finish wins. Raises InputError on a wrong checksum, a
    damaged archive, and a member that is no plain file inside the folder.
    """
    check_sum(path, archive, str(path))
    target = path.parent / archive.folder
    with scratch_beside(target) as scratch:
        extract(path, scratch, lambda name: scratch.joinpath(*name.parts), top=archive.folder)
        try:
            _rename(scratch / archive.folder, target)
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"could not unpack {path}: {error}") from None
    return target


@contextlib.contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, on the same file system; what killed processes left there is removed.

    Its name says the machine, a lock on it that its maker lives. Folders of other machines, and of earlier versions,
    are left for a day.
    """
    own = f".{target.name}-at-{re.sub(r'[^a-zA-Z0-9]', '_', os.uname().nodename)}-"
    try:
        for left in target.parent.glob(f".{target.name}-*"):
            _remove_if_left(left, left.name.startswith(own))
        unnamed = Path(tempfile.mkdtemp(prefix=f".{target.name}-new-", dir=target.parent))
        handle = os.open(unnamed, os.O_RDONLY)
        try:
            take(handle)
            scratch = unnamed.rename(target.with_name(own + unnamed.name.rpartition("-")[2]))
        except BaseException:
            os.close(handle)
            raise
    except OSError as error:
        raise InputError(f"cannot write into {target.parent}: {error.strerror}") from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(handle)


def _remove_if_left(folder: Path, ours: bool) -> None:
    """Removes a folder that nobody is unpacking into."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            old = time.time() - os.fstat(handle).st_mtime > LEFT_SECONDS
            if (ours or old) and take(handle):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def extract(
    path: Path, scratch: Path, place: Callable[[PurePosixPath], Path | None], top: str | None = None
) -> list[Path]:
    """Writes the members of `path` that `place` gives a file for (inside `scratch`), and returns these files.

    top: the one folder that all members must lie in. Raises InputError.
    """
    written = []
    try:
        with members(path) as found:
            for member in found:
                name = safe_name(member, path, top)
                target = place(name) if member.plain else None
                if target is not None:
                    _write(member, target)
                    written.append(target)
        os.sync()  # once: 120,000 small files of Tiny-ImageNet synced one by one take many minutes
    except DAMAGED as error:
        raise InputError(f"could not unpack {path}: {' '.join(str(error).split())}") from None
    return written


def safe_name(member: Member, path: Path, top: str | None) -> PurePosixPath:
    """The member's name. Raises InputError when it is no plain file or folder that lies inside."""
    name = PurePosixPath(member.name)
    inside = ".." not in name.parts and not name.is_absolute() and (top is None or name.parts[:1] == (top,))
    if not inside or not (member.folder or (member.plain and name.parts)):
        where = f"{top}/" if top else "the archive"
        raise InputError(f"{path} holds {member.name!r}, which is no plain file inside {where}: refused")
    return name


@contextlib.contextmanager
def members(path: Path) -> Iterator[Iterator[Member]]:
    """All entries of a zip, or of a tar with any compression, told apart by their first bytes.

    zipfile.is_zipfile looks at the end: it takes a tar of torch's checkpoints (zips themselves) for a zip.
    """
    check_archive(path)
    with path.open("rb") as handle:
        head = handle.read(len(ZIP_START))
    if head == ZIP_START:
        with zipfile.ZipFile(path) as packed:
            yield (_zip_member(packed, info) for info in packed.infolist())
    else:
        with tarfile.open(path) as tar:
            yield (Member(m.name, m.isfile(), m.isdir(), partial(tar.extractfile, m), m) for m in tar)


def _zip_member(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 when it was not packed on Unix
    return Member(
        info.filename, not info.is_dir() and kind in (0, stat.S_IFREG), info.is_dir(), partial(packed.open, info)
    )


def _write(member: Member, target: Path) -> None:
    source = member.open()
    if source is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as handle:
        shutil.copyfileobj(source, handle, CHUNK)


def _rename(whole: Path, target: Path) -> None:
    if not whole.is_dir():
        raise tarfile.TarError(f"it holds no folder {target.name}")
    try:
        whole.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another rank was first: its folder is as good
            raise
