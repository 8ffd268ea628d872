"""Checkpoints: atomic, checksummed, the previous one kept, readable by plain torch.load.

A file is what torch.save writes (a zip archive) with "sha256:<digest of all before>" as the archive's comment: one
rename publishes data and checksum together, and other readers of such archives notice nothing.
"""

import contextlib
import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.utils.atomic import sync_folder, write_atomically

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


def unseal(path: Path) -> Any:
    """The state in a checkpoint file, unless it was made by others: see fits.py. Raises DamagedCheckpoint, OSError."""
    if path.exists() and not path.is_file():
        raise DamagedCheckpoint(f"{path} is no plain file")
    content = path.read_bytes()
    body, comment = content[:-COMMENT_SIZE], content[-COMMENT_SIZE:]
    if comment != PREFIX + hashlib.sha256(body).hexdigest().encode():
        raise DamagedCheckpoint(f"{path} is damaged (its checksum does not fit its content)")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the sum fits: whoever made it can have put in anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedCheckpoint(f"{path} cannot be read ({reason})") from None


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
        self.next_best = folder / "next-best.pt"

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

    def save_best(self, state: State) -> None:
        """The best weights so far, of an epoch that is not closed yet: settle_best makes them best.pt."""
        self.save(self.next_best, state)

    def settle_best(self, closed: int) -> None:
        """best.pt is of one of the `closed` epochs: later ones are run again, perhaps on other ranks to other weights.

        Until last.pt counts its epoch, a new best lies beside the one before.
        """
        for path in (self.best, self.next_best):
            try:
                epoch = unseal(path)["epoch"]
            except FileNotFoundError:
                continue
            except (DamagedCheckpoint, LookupError, TypeError):
                epoch = 0 if path == self.best else closed + 1  # who reads it will say so
            if not isinstance(epoch, int) or epoch > closed:
                path.unlink()
            elif path == self.next_best:
                path.replace(self.best)

    def publish_best(self) -> None:
        """What save_best wrote becomes best.pt, now that last.pt counts its epoch."""
        with contextlib.suppress(FileNotFoundError):
            self.next_best.replace(self.best)

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
