"""Writers of one teacher cache, any number of them on any machines that share the folder, killed at any time.

Work is cut into parts (a view, some of its steps). A part is computed under a lock that ends with its process, written
to a temporary name, flushed and renamed; who finds all parts of a view there joins them into the view's arrays. Where
locks do not reach other machines, two writers may compute the same part: its bytes are equal. The manifest comes last.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.contracts import InputError
from pipeline.files import sync_folder, write_atomically, write_text
from pipeline.teachers.cache_format import MANIFEST, Layout, Manifest, differences, file_name

Rows = dict[tuple[str, str], Tensor]  # float32 [M, width] by (stream, "logits" or "pooled")
IDENTITY = "identity.json"


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

    def missing_bytes(self) -> int:
        """What is still to be written, and one view twice while it is joined."""
        views = sum(not self.joined(view).is_file() for view in range(self.layout.views))
        return (views + min(views, 1)) * self.layout.bytes_per_view()

    def start(self) -> bool:
        """Makes the folder, or joins those who write in it. False where the cache is complete.

        Raises InputError: another cache is there or being written, the disk cannot hold it, the folder is not writable.
        """
        wanted = json.dumps({"identity": self.identity, "layout": self._layout()}, indent=1, sort_keys=True)
        try:
            finished = self.folder / MANIFEST
            if finished.is_file():
                self._compare(json.loads(finished.read_text()), json.loads(wanted))
                return False
            self.scratch.mkdir(parents=True, exist_ok=True)
            claimed = self.scratch / IDENTITY
            if not claimed.is_file():
                _publish_once(claimed, wanted)
            self._compare(json.loads(claimed.read_text()), json.loads(wanted))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot write a cache into {self.folder}: {error}") from None
        free, needed = shutil.disk_usage(self.folder).free, self.missing_bytes()
        if needed > free:
            raise InputError(f"{self.folder}: {needed:,} bytes are to be written, the disk has {free:,} left")
        return True

    def _layout(self) -> dict[str, object]:
        return dict(json.loads(Manifest(layout=self.layout, identity={}, files={}).text())["layout"])

    def _compare(self, there: dict[str, dict[str, object]], here: dict[str, dict[str, object]]) -> None:
        a, b = ({name: side[name] for name in ("identity", "layout")} for side in (there, here))
        found = differences(a, b)
        if found:
            raise InputError(f"{self.folder} holds the cache of another teacher or run: {'; '.join(found[:3])}")

    # ---- parts -------------------------------------------------------------------------------------------------------

    def write(self, part: Part, index_M: Tensor, rows: Rows) -> None:
        """The outputs for the samples index_M, packed, as one file."""
        arrays = {"index": index_M.numpy()}
        for stream, what, codec, _ in self.layout.arrays():
            for suffix, value in codec.pack(rows[stream, what]).items():
                arrays[file_name(part.view, stream, what, suffix)] = value.numpy()
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        try:
            write_atomically(self.path(part), content.getvalue())
        except FileNotFoundError:
            if not self.complete:  # by another writer, who did this part too
                raise

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
        """All parts of a view into its arrays; the parts are removed once the arrays are on the disk."""
        if not self.joined(view).is_file():
            record = {}
            for name, (dtype, columns) in self.layout.files(view).items():
                temporary = self.scratch / f"{name}.{os.getpid()}.tmp"
                array = np.lib.format.open_memmap(
                    temporary, mode="w+", dtype=dtype, shape=(self.layout.samples, columns)
                )
                with temporary.open("r+b") as handle:  # writing a map on a full disk would end the process by SIGBUS
                    os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)
                for part in self.parts(view):
                    with np.load(self.path(part), allow_pickle=False) as there:
                        array[there["index"]] = there[name]
                array.flush()
                del array
                record[name] = _seal(temporary, self.folder / name)
            sync_folder(self.folder)
            write_text(self.joined(view), json.dumps(record, sort_keys=True))
        for part in self.parts(view):
            self.path(part).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Whether this process alone has `name` now."""
        try:
            handle = (self.scratch / f"{name}.lock").open("w")
        except FileNotFoundError:
            if not self.complete:
                raise
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
        files: dict[str, dict[str, object]] = {}
        for view in range(self.layout.views):
            files |= json.loads(self.joined(view).read_text())
        write_text(self.folder / MANIFEST, Manifest(layout=self.layout, identity=self.identity, files=files).text())
        shutil.rmtree(self.scratch, ignore_errors=True)


def _publish_once(path: Path, text: str) -> None:
    """`text` at `path`, unless another writer was first."""
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    temporary.write_text(text)
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def _seal(temporary: Path, target: Path) -> dict[str, object]:
    """Flushes a finished file to the disk and gives it its name: size and SHA-256 of it."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    temporary.replace(target)
    return {"bytes": target.stat().st_size, "sha256": digest}


def shares(work: Work, rank: int, ranks: int) -> Iterator[Part]:
    """Parts still to be done, those of this rank first, then what others have not begun; none twice at a time.

    A part is yielded under its lock: the caller writes it before it asks for the next.
    """
    for turn in range(ranks):
        mine = (rank + turn) % ranks
        for view in range(work.layout.views):
            parts = work.parts(view)
            a, b = mine * len(parts) // ranks, (mine + 1) * len(parts) // ranks
            for part in parts[a:b]:
                if not work.waits(part):
                    continue
                with work.lock(work.path(part).stem) as alone:
                    if alone and work.waits(part):
                        yield part
            _join_if_whole(work, view)


def _join_if_whole(work: Work, view: int) -> None:
    if work.left(view) or work.complete:
        return
    with work.lock(f"join-{view:05d}") as alone:
        if not alone or work.left(view):
            return
        try:
            work.join(view)
        except FileNotFoundError:
            if not work.complete:  # by another writer, just now
                raise


def settle(work: Work, wait: Callable[[], None]) -> bool:
    """Joins views whose parts are all there. True when every view is joined; calls `wait` where others still work."""
    for view in range(work.layout.views):
        _join_if_whole(work, view)
    done = work.complete or all(work.joined(view).is_file() for view in range(work.layout.views))
    if not done:
        wait()
    return done


def packable(values: dict[tuple[str, str], list[Tensor]]) -> Rows:
    """Batches of outputs as rows on the host."""
    return {key: torch.cat(rows).float().cpu() for key, rows in values.items()}
