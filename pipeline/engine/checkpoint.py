"""Checkpoints: atomic, checksummed, the previous one kept, readable by plain torch.load.

A file is what torch.save writes (a zip archive) with "sha256:<digest of all before>" as the archive's comment: one
rename publishes data and checksum together, and other readers of such archives notice nothing.
"""

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from pipeline.files import sync_folder, write_atomically

PREFIX = b"sha256:"
COMMENT_SIZE = len(PREFIX) + 64
State = dict[str, Any]


class DamagedCheckpoint(Exception):
    """The file's checksum does not fit, or it cannot be read at all."""


def seal(state: State) -> bytes:
    """The bytes of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    archive = buffer.getvalue()
    body, comment_length = archive[:-2], archive[-2:]
    assert comment_length == b"\0\0", "torch.save is expected to write an archive without a comment"
    body += COMMENT_SIZE.to_bytes(2, "little")
    return body + PREFIX + hashlib.sha256(body).hexdigest().encode()


def unseal(path: Path) -> State:
    """The state in a checkpoint file. Raises DamagedCheckpoint, OSError."""
    content = path.read_bytes()
    body, comment = content[:-COMMENT_SIZE], content[-COMMENT_SIZE:]
    if comment != PREFIX + hashlib.sha256(body).hexdigest().encode():
        raise DamagedCheckpoint(f"{path} is damaged (its checksum does not fit its content)")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    assert isinstance(state, dict)
    return state


def twin(source: Path, target: Path) -> None:
    """`target` becomes a second name of `source` (a copy where the file system has no hard links), in one rename."""
    link = target.with_name(f".{target.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(source, link)
    except OSError:
        shutil.copyfile(source, link)
    link.replace(target)


class Checkpoints:
    """The files in a run's checkpoints/ folder: last.pt, previous.pt, best.pt, epoch-NNN.pt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.pt"
        self.previous = folder / "previous.pt"
        self.best = folder / "best.pt"

    def save_last(self, state: State) -> None:
        """Publishes `state` as last.pt; what was last.pt becomes previous.pt. At no moment is there none."""
        content = seal(state)
        self._sweep()
        pending = self.folder / "pending.pt"
        write_atomically(pending, content)
        if self.last.exists():
            twin(self.last, self.previous)
        pending.replace(self.last)
        sync_folder(self.folder)

    def save(self, path: Path, state: State) -> None:
        """Any other checkpoint file, atomically."""
        content = seal(state)
        write_atomically(path, content)

    def keep(self, epoch: int) -> None:
        """last.pt once more, as the file of `epoch` (from 1) that later steps do not replace."""
        twin(self.last, self.folder / f"epoch-{epoch:04d}.pt")

    def load_last(self) -> tuple[State | None, list[str]]:
        """(newest good state or None, what was wrong with newer files)."""
        complaints: list[str] = []
        for path in (self.last, self.previous):
            try:
                return unseal(path), complaints
            except FileNotFoundError:
                continue
            except (DamagedCheckpoint, OSError) as error:
                complaints.append(str(error))
        return None, complaints

    def _sweep(self) -> None:
        """Remove what killed writers left behind."""
        for leftover in self.folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                leftover.unlink()
