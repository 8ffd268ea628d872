"""Writers of one teacher cache, any number of them on any machines that share the folder, killed at any time.

Work is cut into parts (a view, some of its steps). A part is computed under a lock that ends with its process, written
to a temporary name, flushed and renamed; who finds all parts of a view there joins them into the view's arrays. Where
locks do not reach other machines, two writers may compute the same part: its bytes are equal. The manifest comes last.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_prep.cache_arrays import (
    BLOCK,
    MEMBER,
    DamagedPart,
    allocate,
    insert,
    packed,
    read_record,
    record_text,
    seal,
    telling,
)
from pipeline.contracts import InputError, NotWritten
from pipeline.teachers.cache_format import MANIFEST, Layout, Manifest, differences, file_name, read_manifest, whole
from pipeline.utils.atomic import sync_folder, write_atomically, write_text
from pipeline.utils.untrusted_files import Unreadable, read_object

Rows = dict[tuple[str, str], Tensor]  # float32 [M, width] by (stream, "logits" or "pooled")
IDENTITY = "identity.json"
HOST = os.uname().nodename


class Part(NamedTuple):
    """Steps first..stop of a view."""

    view: int
    number: int
    first: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """layout, identity: of the cache; steps: batches of a view; steps_per_part: how many are written at once."""

    folder: Path
    layout: Layout
    identity: dict[str, object]
    steps: int
    steps_per_part: int

    @property
    def scratch(self) -> Path:
        """Where the parts lie until they are joined."""
        return self.folder / ".parts"

    def parts(self, view: int) -> list[Part]:
        """Of one view, in order."""
        edges = range(0, self.steps, self.steps_per_part)
        return [Part(view, n, a, min(a + self.steps_per_part, self.steps)) for n, a in enumerate(edges)]

    def path(self, part: Part) -> Path:
        """The file of a part."""
        return self.scratch / f"view-{part.view:05d}.part-{part.number:04d}.npz"

    def joined(self, view: int) -> Path:
        """The record of a view's finished arrays."""
        return self.scratch / f"view-{view:05d}.json"

    @property
    def complete(self) -> bool:
        """Whether some writer has ended the work; its scratch is gone then."""
        return (self.folder / MANIFEST).is_file()

    def waits(self, part: Part) -> bool:
        """Whether the part is still to be computed."""
        return not (self.path(part).is_file() or self.joined(part.view).is_file() or self.complete)

    def missing_bytes(self) -> tuple[int, int]:
        """What is still to be written, and one view twice while it is joined: (data, the same with headers and blocks).

        A view lies on the disk as parts first, then as arrays.
        """
        views = sum(not self.joined(view).is_file() for view in range(self.layout.views))
        views, files, parts = views + min(views, 1), len(self.layout.files(0)), len(self.parts(0))
        extra = files * (BLOCK + MEMBER) + parts * (BLOCK + (files + 1) * MEMBER) + 8 * self.layout.samples
        return views * self.layout.bytes_per_view(), views * (self.layout.bytes_per_view() + extra)

    def start(self) -> bool:
        """Makes the folder, or joins those who write in it. False where the cache is complete.

        What a killed writer or a bad disk has damaged is removed, to be computed anew. Raises InputError: another cache
        is there or being written, the disk cannot hold it, the folder is not writable.
        """
        wanted = {"identity": self.identity, "layout": self._layout()}
        if self.complete:
            self._compare(json.loads(self._finished().text()), json.loads(json.dumps(wanted)))
            return False
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._claim(json.dumps(wanted, indent=1, sort_keys=True))
            for view in range(self.layout.views):
                if self.joined(view).exists() and self._record(view) is None:
                    print(f"note: view {view} is damaged and computed anew", flush=True)
                    remove(self.joined(view))
        except OSError as error:
            raise InputError(f"cannot write a cache into {self.folder}: {error}") from None
        free, (needed, room) = shutil.disk_usage(self.folder).free, self.missing_bytes()
        if room > free:
            with_blocks = "" if needed > free else f" ({room:,} with headers and blocks)"
            raise InputError(
                f"{self.folder}: {needed:,} bytes are to be written{with_blocks}, the disk has {free:,} left"
            )
        return True

    def _finished(self) -> Manifest:
        try:
            return read_manifest(self.folder)
        except InputError as error:
            raise InputError(f"{error}; without {MANIFEST} it would be written anew") from None

    def _claim(self, wanted: str) -> None:
        """Says of what the parts are, or compares with what another writer said. Raises OSError, InputError."""
        claimed = self.scratch / IDENTITY
        for _ in range(2):
            if not claimed.is_file():
                _publish_once(claimed, wanted)
            with contextlib.suppress(Unreadable):
                there = read_object(claimed)
                if all(isinstance(there.get(name), dict) for name in ("identity", "layout")):
                    self._compare(there, json.loads(wanted))
                    return
            print(f"note: {claimed} is damaged: the parts beside it are computed anew", flush=True)
            for path in self.scratch.iterdir():
                if path.suffix != ".lock":
                    remove(path)
        raise InputError(f"{claimed} cannot be written")

    def _record(self, view: int) -> dict[str, dict[str, Any]] | None:
        """Bytes and SHA-256 of a joined view's arrays; None where one of them, or the record, is not as it was."""
        return read_record(self.joined(view), set(self.layout.files(view)), self.folder)

    def _layout(self) -> dict[str, object]:
        return dict(json.loads(Manifest(layout=self.layout, identity={}, files={}).text())["layout"])

    def _compare(self, there: dict[str, dict[str, object]], here: dict[str, dict[str, object]]) -> None:
        a, b = ({"identity": whole(side["identity"]), "layout": side["layout"]} for side in (there, here))
        found = differences(a, b)
        if found:
            raise InputError(f"{self.folder} holds the cache of another teacher or run: {'; '.join(found[:3])}")

    # ---- parts -------------------------------------------------------------------------------------------------------

    def write(self, part: Part, index_M: Tensor, rows: Rows) -> None:
        """The outputs for the samples index_M, packed, as one file. Raises NotWritten."""
        arrays = {"index": index_M.numpy()}
        for stream, what, codec, _ in self.layout.arrays():
            for suffix, value in codec.pack(rows[stream, what]).items():
                arrays[file_name(part.view, stream, what, suffix)] = value.numpy()
        try:
            with telling(self.folder):
                write_atomically(self.path(part), packed(arrays))
        except FileNotFoundError:
            self._gone()

    def _gone(self) -> None:
        """The scratch is not there: another writer has ended the work, which did this part too."""
        if not self.complete:
            raise NotWritten(f"{self.scratch} was removed while a cache was written in it")

    def done(self) -> int:
        """Parts of all views that are on the disk."""
        if self.complete:
            return self.layout.views * len(self.parts(0))
        of_joined = sum(len(self.parts(0)) for view in range(self.layout.views) if self.joined(view).is_file())
        return min(of_joined + sum(1 for _ in self.scratch.glob("view-*.npz")), self.layout.views * len(self.parts(0)))

    def left(self, view: int) -> list[Part]:
        """Parts that are not there yet."""
        return [part for part in self.parts(view) if self.waits(part)]

    def join(self, view: int) -> None:
        """All parts of a view into its arrays; the parts are removed once the arrays are on the disk.

        A damaged part is removed instead, and is left to be computed. Raises FileNotFoundError, NotWritten.
        """
        if not self.joined(view).is_file():
            record = {}
            for name, (dtype, columns) in self.layout.files(view).items():
                for left in self.scratch.glob(f"{name}.{HOST}.*.tmp"):  # of a writer that was killed: we have the lock
                    left.unlink()
                temporary = self.scratch / f"{name}.{HOST}.{os.getpid()}.tmp"
                array = allocate(temporary, dtype, (self.layout.samples, columns))
                for part in self.parts(view):
                    try:
                        insert(array, self.path(part), name)
                    except DamagedPart as error:
                        print(f"note: {self.path(part)} is damaged ({error}) and computed anew", flush=True)
                        temporary.unlink()
                        remove(self.path(part))
                        return
                array.flush()
                del array
                record[name] = seal(temporary, self.folder / name)
            sync_folder(self.folder)
            write_text(self.joined(view), record_text(record))
        for part in self.parts(view):
            self.path(part).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Whether this process alone has `name` now. Raises NotWritten."""
        try:
            with telling(self.folder):
                handle = (self.scratch / f"{name}.lock").open("w")
        except FileNotFoundError:
            self._gone()
            yield False
            return
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    def finish(self) -> None:
        """Writes the manifest and removes what is left of the work. Any writer may; all write the same."""
        if self.complete:
            return
        files: dict[str, dict[str, Any]] = {}
        for view in range(self.layout.views):
            record = self._record(view)
            if record is None:
                raise NotWritten(f"{self.joined(view)} was damaged meanwhile: started again, its view is written anew")
            files |= record
        with telling(self.folder):
            write_text(self.folder / MANIFEST, Manifest(layout=self.layout, identity=self.identity, files=files).text())
        shutil.rmtree(self.scratch, ignore_errors=True)


def remove(path: Path) -> None:
    """A file, or whatever stands in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _publish_once(path: Path, text: str) -> None:
    """`text` at `path`, unless another writer was first."""
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}")
    with temporary.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())  # or a power cut leaves the name without its content
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def packable(values: dict[tuple[str, str], list[Tensor]]) -> Rows:
    """Batches of outputs as rows on the host."""
    return {key: torch.cat(rows).float().cpu() for key, rows in values.items()}
