"""Fetch published teachers to where teacher.checkpoint=auto finds them.

python data_prep/fetch_teachers.py [release=NAME names=[resnet56,...] out=DIR url=MIRROR]

Broken downloads are gone on with. DIR/checksums.json keeps the SHA-256 of every file, and later calls compare with it.
configs/teachers.yaml lists the releases, with their addresses and licences.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import PathText, Text
from pipeline.contracts import InputError, unwritten
from pipeline.datasets.archives import extract, scratch_beside
from pipeline.datasets.downloads import Told, fetch
from pipeline.utils.atomic import write_json
from pipeline.utils.suggest import hint, nearest
from pipeline.utils.untrusted_files import Unreadable, read_object
from pipeline.weights.published import Published, Release, releases, spelled

SUMS = "checksums.json"


class Ledger:
    """SHA-256 of every file that was fetched into a folder, kept there: what came first is what is right ever after."""

    def __init__(self, out: Path) -> None:
        self.path = out / SUMS

    def read(self) -> dict[str, str]:
        """Sums by name. Raises InputError when the file is damaged."""
        try:
            found = read_object(self.path) if os.path.lexists(self.path) else {}
        except Unreadable:
            raise InputError(f"{self.path} is damaged: delete it") from None
        if not all(isinstance(sum_, str) for sum_ in found.values()):
            raise InputError(f"{self.path} is damaged: delete it")
        return found

    def check(self, path: Path, name: str, published: str | None, what: str) -> None:
        """Compares the file with its published sum, or the one kept under `name`; keeps it. Raises InputError.

        what: by which name people know the file.
        """
        with path.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        known = self.read()
        wanted = published or known.get(name, found)
        if not found.startswith(wanted):  # a published sum may be cut off
            source = "the published one is" if published else f"{self.path} says"
            raise InputError(f"{what} has SHA-256 {found}, {source} {wanted}: damaged, or another file")
        if known.get(name) != found:
            write_json(self.path, dict(sorted({**known, name: found}.items())))


def find_release(name: str) -> Release:
    """The release `name`. Raises InputError for an unknown one, and for one that has to be fetched by hand."""
    known = releases()
    if name not in known:
        raise InputError(f"unknown release {name!r}{hint(name, list(known))} (known: {', '.join(known)})")
    if not known[name].files:
        raise InputError(f"release {name} states no address of a file: fetch it by hand from {known[name].page}")
    return known[name]


def choose(release: Release, names: tuple[str, ...]) -> list[tuple[Published, list[str]]]:
    """(file to fetch, paths of the checkpoints wanted of it). names: networks, () = all. Raises InputError."""
    by_lower = {network.lower(): network for network in release.networks}
    for name in names:
        if not any(spelled(name, network) for network in release.networks):
            close = nearest(name, list(by_lower))
            near = f"; did you mean {by_lower[close]!r}?" if close else ""
            raise InputError(f"release {release.name} holds no {name!r}{near} (known: {', '.join(release.networks)})")
    wanted = []
    for file in release.files:
        held = [path for n, path in file.holds.items() if not names or any(spelled(name, n) for name in names)]
        wanted += [(file, held)] if held else []
    return wanted


@dataclass(frozen=True, kw_only=True)
class Order:
    """One file of a release. name: of its sum; address: where it is; paths: of the wanted checkpoints, below `out`."""

    file: Published
    name: str
    address: str
    paths: tuple[str, ...]
    out: Path
    told: Told

    def get(self, ledger: Ledger) -> None:
        """Brings the wanted checkpoints into place. Raises InputError, or OSError."""
        if self.file.unpack is not None:
            self._get_archive(ledger)
            return
        for path in self.paths:
            self._fetch(self.out / path, ledger, path)

    def _fetch(self, target: Path, ledger: Ledger, name: str) -> None:
        def check(part: Path) -> None:
            ledger.check(part, name, self.file.sha256, self.address)

        fetch(self.address, target, check=check, told=self.told)

    def _get_archive(self, ledger: Ledger) -> None:
        """Takes the wanted checkpoints out of the archive, which is deleted when they are there."""
        packed = self.out / PurePosixPath(self.file.file).name
        if packed.exists():
            ledger.check(packed, self.name, self.file.sha256, str(packed))
        else:
            self._fetch(packed, ledger, self.name)
        with scratch_beside(packed) as scratch:
            extract(packed, scratch, partial(self._place, scratch))
            absent = [path for path in self.paths if not (scratch / path).is_file()]
            if absent:
                raise InputError(f"{packed} holds no {', '.join(absent)}")
            for path in self.paths:
                ledger.check(scratch / path, path, None, f"{path} in {packed}")
                (self.out / path).parent.mkdir(parents=True, exist_ok=True)
                (scratch / path).replace(self.out / path)
        packed.unlink()

    def _place(self, scratch: Path, member: PurePosixPath) -> Path | None:
        """Where a member goes. The end of its name counts: archives have one leading folder more or less."""
        for path in self.paths:
            end = PurePosixPath(path).relative_to(self.file.unpack or ".").parts
            if member.parts[-len(end) :] == end:
                return scratch / path
        return None


def bring(
    release: Release, names: tuple[str, ...], out: Path, url: Text | None, watch: Callable[[str], Told]
) -> list[Path]:
    """Fetches what is not there yet; returns the checkpoints, checked.

    url: a mirror's folder, or the file itself where one is wanted. watch: makes what is told of a file's progress.
    Raises InputError.
    """
    ledger, chosen, made = Ledger(out), choose(release, names), []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, paths in chosen:
            there = [path for path in paths if (out / path).exists()]
            for path in there:
                ledger.check(out / path, path, None if file.unpack else file.sha256, str(out / path))
            missing = tuple(path for path in paths if path not in there)
            if missing:
                address = address_of(release, file, url, len(chosen))
                name, told = f"{release.name}/{file.file}", watch(file.file)
                Order(file=file, name=name, address=address, paths=missing, out=out, told=told).get(ledger)
            made += [out / path for path in paths]
    except OSError as error:
        raise unwritten(f"cannot write {error.filename or out}", error) from None
    return made


def address_of(release: Release, file: Published, url: Text | None, files: int) -> str:
    """The address of a file, at the mirror `url` when one is given. files: how many are wanted."""
    if url is not None and files == 1 and url.endswith(f"/{PurePosixPath(file.file).name}"):
        return url
    return f"{(url or release.base).rstrip('/')}/{file.file}"


@contextmanager
def bars() -> Iterator[Callable[[str], Told]]:
    """A progress bar for each file, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:

        def watch(name: str) -> Told:
            task = progress.add_task(name, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield watch


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[Text, ...], BeforeValidator(_listed)]


class FetchConfig(BaseModel):
    """Keys of data_prep/fetch_teachers.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    release: Names = Field(("mdistiller",), min_length=1, description="releases to fetch from, one or [a,b]")
    names: Names = Field((), description="networks to fetch, one or [a,b]; none = all that the release holds")
    out: PathText = Field("teachers", description="folder to fetch to; teacher.root= of a run")
    url: Text | None = Field(None, description="a mirror: its folder, or the file itself where it is one")


def help_text() -> str:
    """What --help prints."""
    known = releases().values()
    lines = [f"  {r.name:14} {r.dataset:14} {', '.join(r.networks) or 'by hand: ' + r.page}" for r in known]
    return describe(__doc__ or "", FetchConfig, "\n".join(["", "Releases:", "", *lines]))


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(FetchConfig, argv)
    chosen = [find_release(name) for name in config.release]
    if config.url and len(chosen) > 1:
        raise InputError("url= is the mirror of one release: give one release=")
    with bars() as watch:
        made = {r.name: bring(r, config.names, Path(config.out), config.url, watch) for r in chosen}
    for release in chosen:
        print(*made[release.name], sep="\n")
        print(
            f"{release.name}: licence {release.licence}; teacher.checkpoint=auto teacher.root={config.out} finds them"
        )


if __name__ == "__main__":
    cli.run(main, help_text, {})
