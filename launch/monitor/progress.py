"""How far a run folder is, from its small files: cheap enough for hundreds of runs every few seconds.

Nothing is loaded but the head of the last checkpoint, and of a folder that has not changed nothing at all.
"""

import fcntl
import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.first_stage import FOLDER as FIRST_STAGE
from pipeline.run_folder.metrics_file import Record
from pipeline.run_folder.record import RunRecord, is_end
from pipeline.run_folder.summary import best_record

LOCKS = Path("/proc/locks")
LARGEST = 10**12  # epochs or steps
RECENT = 5  # epochs, at least, that the time of one is taken from
Signature = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One run folder. Accuracies in per cent on the test set; None: not known (yet).

    epoch: finished ones; epoch_seconds: of one epoch with its evaluation; changed: Unix time of the last record;
    resumed: times that it went on from a checkpoint; note: what else is to be said; problem: why it cannot be read.
    """

    epoch: int = 0
    epochs: int | None = None
    step: int | None = None
    top1_last: float | None = None
    top1_best: float | None = None
    images_per_second: float | None = None
    epoch_seconds: float | None = None
    changed: float = 0.0
    resumed: int = 0
    finished: bool = False
    checkpoint: bool = False
    note: str = ""
    problem: str = ""


def read_progress(folder: Path) -> Progress:
    """The state of a run folder; one that cannot be read is a Progress with a problem, so that others still show."""
    run, first = RunRecord(folder).files, RunRecord(folder / FIRST_STAGE).files
    files = (run.config, run.metrics, run.summary, run.checkpoints.last, first.metrics)
    try:
        return _read(folder, tuple(map(_signature, files)))
    except Exception as error:  # the files are anybody's, and one folder must not hide the others
        said = " ".join(str(error).split())[:300] or "nothing said"
        return Progress(
            problem=f"cannot be read: {said if isinstance(error, ValueError) else f'{type(error).__name__}: {said}'}"
        )


def _signature(file: Path) -> tuple[int, int] | None:
    """What tells one content of a file from another; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=4096)
def _read(folder: Path, signature: Signature) -> Progress:
    run = RunRecord(folder)
    config = run.sections
    limit, epochs = _count(config["run"].get("limit_steps")), _count(config["optim"]["epochs"]) or 0
    known: dict[str, Any] = _figures(run.epochs, config) | {"changed": signature[1][0] / 1e9 if signature[1] else 0.0}
    end = {} if run.summary is None else _end(run.summary)
    if end and is_end(end["epochs"], end["step"], epochs, limit):
        return Progress(**known | end, finished=True)
    head = checkpoint_head(run.files.checkpoints.last)
    if head is None:
        return Progress(**known, epochs=epochs, note=_first_stage(folder))
    position = {name: _count(head["position"][name]) or 0 for name in ("done", "steps_per_epoch")}
    if limit is not None:
        epochs = min(epochs, -(-limit // max(1, position["steps_per_epoch"])))
    return Progress(**known, epochs=epochs, step=position["done"], resumed=head["resumed"], checkpoint=True)


def _count(value: Any) -> int | None:
    """A whole number that a run can have. Raises ValueError."""
    if value is not None and not (type(value) is int and 0 <= value < LARGEST):
        raise ValueError(f"{str(value)[:40]!r} is no number of epochs or steps")
    return value


def _figure(value: Any) -> float | None:
    """A finite number; None for nothing, and for NaN. Raises ValueError."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{str(value)[:40]!r} is no figure")
    return None if value is None or not math.isfinite(value) else float(value)


def _end(summary: dict[str, Any]) -> dict[str, Any]:
    """What summary.json says. Raises ValueError, KeyError."""
    epochs = _count(summary["epochs"]) or 0
    return {
        "epoch": epochs,
        "epochs": epochs,
        "step": _count(summary.get("steps")),
        "top1_last": _figure(summary["top1_last"]),
        "top1_best": _figure(summary["top1_best"]),
        "images_per_second": _figure(summary.get("images_per_second")) or None,
        "resumed": _count(summary.get("resumed")) or 0,
    }


def _first_stage(folder: Path) -> str:
    """How far the stage before the training proper is."""
    records = RunRecord(folder / FIRST_STAGE).epochs
    return f"first stage, {_count(records[-1]['epoch'])} epochs done" if records else ""


def _figures(records: Sequence[Record], config: dict[str, Any]) -> dict[str, Any]:
    """What the records say: of the last epoch, the last and the best evaluation, and how long an epoch takes."""
    if not records:
        return {}
    chosen_by = "val" if config.get("select_on") == "val" else "test"
    evaluated = [r for r in records if r.get("test_top1") is not None and r.get(f"{chosen_by}_top1") is not None]
    every = _count(config["run"].get("eval_every", 1)) or 1
    # Epochs with and without evaluation in their true proportion; the first one holds the start-up.
    recent = records[1:][-every * -(-RECENT // every) :] or records
    return {
        "epoch": _count(records[-1]["epoch"]) or 0,
        "top1_last": _figure(evaluated[-1]["test_top1"]) if evaluated else None,
        "top1_best": _figure(best_record(evaluated, chosen_by)["test_top1"]) if evaluated else None,
        "images_per_second": _figure(records[-1].get("images_per_second")) or None,
        "epoch_seconds": sum(_figure(r["seconds"]) or 0.0 for r in recent) / len(recent),
    }


def checkpoint_head(file: Path) -> dict[str, Any] | None:
    """{'position', 'resumed', ...} of a checkpoint without reading its tensors; None where none can be read."""
    if not file.is_file():
        return None  # a FIFO would wait for ever
    try:
        # Mapped, so that an archive of a gigabyte costs as little as a small one; whether it is whole, resuming asks.
        head = torch.load(file, mmap=True, map_location="cpu", weights_only=True)
        return {"position": dict(head["position"]), "resumed": _count(head["resumed"]) or 0}
    except Exception:  # torch, pickle and zipfile raise nearly anything on damaged files
        return None


def locked_inodes(locks: Path = LOCKS) -> set[int] | None:
    """Inodes on which processes of this machine hold a lock; None where the system does not tell."""
    try:
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    rows = [line.split() for line in lines]
    return {int(row[5].rpartition(":")[2]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[3] == "WRITE"}


def _at_once(path: str, flags: int) -> int:
    """Opens without waiting for the other end of a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def is_held(folder: Path, inodes: set[int] | None) -> bool:
    """Whether a process of this machine trains in `folder`. inodes: of locked_inodes.

    The lock is tried only where the list says that it is held: a try that succeeds would, for an instant, stand in the
    way of a run that starts.
    """
    try:
        with open(folder / ".lock", opener=_at_once) as handle:
            if inodes is not None and (folder / ".lock").stat().st_ino not in inodes:
                return False
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
