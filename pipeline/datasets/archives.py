"""Official archives: where they come from, their checksums, and safe unpacking."""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipeline.contracts import InputError

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A tar.gz of one folder. md5: of the archive file, hex; base_url ends in '/'; folder: its one top-level folder."""

    file: str
    folder: str
    md5: str
    base_url: str


def md5_of(path: Path) -> str:
    """Hex MD5 of a file (the sum that its publishers give; no protection against forgery)."""
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
    """Fetches the archive into `root` under a temporary name, checks it, renames it. Returns its path.

    Raises InputError without a network, on a wrong checksum, and when `root` cannot be written.
    """
    url = archive.base_url + archive.file
    target = root / archive.file
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{archive.folder}-", dir=root) as scratch:
            part = Path(scratch) / archive.file
            with _open(url) as reply, part.open("wb") as handle:
                shutil.copyfileobj(reply, handle, CHUNK)
            check_sum(part, archive, url)
            part.replace(target)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
        raise InputError(f"could not fetch {url} into {root}: {error}; put {archive.file} there by hand") from None
    return target


def _open(url: str) -> AbstractContextManager[BinaryIO]:
    return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)


def unpack(archive: Archive, path: Path) -> Path:
    """Checks and unpacks the archive file `path` beside itself. Returns the folder.

    The files are written to a temporary folder that is renamed when it is whole: an interrupted run leaves no half
    folder, and of several ranks that unpack at once the first to finish wins. Raises InputError on a wrong checksum, a
    damaged archive, and a member that is no plain file inside the folder.
    """
    check_sum(path, archive, str(path))
    target = path.parent / archive.folder
    try:
        with tempfile.TemporaryDirectory(prefix=f".{archive.folder}-", dir=path.parent) as scratch:
            with tarfile.open(path, "r:gz") as tar:
                for member in tar:
                    _write_member(tar, member, archive, Path(scratch), path)
            _rename(Path(scratch) / archive.folder, target)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"could not unpack {path}: {error}") from None
    return target


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Archive, scratch: Path, path: Path) -> None:
    """Writes one plain file. Own code: tarfile's filter="data" is missing from Python before 3.11.4."""
    name = PurePosixPath(member.name)
    inside = name.parts[:1] == (archive.folder,) and ".." not in name.parts
    if not inside or not (member.isfile() or member.isdir()):
        raise InputError(f"{path} holds {member.name!r}, which is no plain file inside {archive.folder}/: refused")
    source = tar.extractfile(member)
    if source is None:
        return
    target = scratch.joinpath(*name.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as handle:
        shutil.copyfileobj(source, handle, CHUNK)
        handle.flush()
        os.fsync(handle.fileno())


def _rename(whole: Path, target: Path) -> None:
    if not whole.is_dir():
        raise tarfile.TarError(f"it holds no folder {target.name}")
    try:
        whole.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another rank was first: its folder is as good
            raise
