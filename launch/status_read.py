"""How far a run folder is, from its small files: cheap enough for hundreds of runs every few seconds.

Nothing is loaded but the head of the last checkpoint, and of a folder that has not changed nothing at all.
"""

import fcntl
import functools
import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.engine.run_dir import RunDir
from pipeline.engine.stages import FOLDER as FIRST_STAGE
from pipeline.engine.summary import best_record

# libyaml is ten times as fast as the parser in Python, and a configuration takes most of the reading.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LOCKS = Path("/proc/locks")
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
    run, first = RunDir(folder), RunDir(folder / FIRST_STAGE)
    files = (run.config, run.metrics, run.summary, run.checkpoints.last, first.metrics)
    try:
        return _read(folder, tuple(map(_signature, files)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return Progress(problem=f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}")


def _signature(file: Path) -> tuple[int, int] | None:
    """What tells one content of a file from another; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=4096)
def _read(folder: Path, signature: Signature) -> Progress:
    run = RunDir(folder)
    config = yaml.load(run.config.read_text(), Loader=LOADER)
    limit, epochs = config["run"].get("limit_steps"), int(config["optim"]["epochs"])
    records = read_records(run.metrics)
    known: dict[str, Any] = _figures(records, config) | {"changed": signature[1][0] / 1e9 if signature[1] else 0.0}
    summary = run.read_summary()
    if summary is not None and (summary["epochs"] >= epochs or (limit and summary.get("steps", 0) >= limit)):
        return Progress(**known | _end(summary), finished=True)
    head = checkpoint_head(run.checkpoints.last)
    if head is None:
        return Progress(**known, epochs=epochs, note=_first_stage(folder))
    position = head["position"]
    if limit is not None:
        epochs = min(epochs, -(-limit // position["steps_per_epoch"]))
    return Progress(**known, epochs=epochs, step=position["done"], resumed=head["resumed"], checkpoint=True)


def _end(summary: dict[str, Any]) -> dict[str, Any]:
    """What summary.json says."""
    return {
        "epoch": int(summary["epochs"]),
        "epochs": int(summary["epochs"]),
        "step": summary.get("steps"),
        "top1_last": float(summary["top1_last"]),
        "top1_best": float(summary["top1_best"]),
        "images_per_second": summary.get("images_per_second") or None,
        "resumed": summary.get("resumed", 0),
    }


def _first_stage(folder: Path) -> str:
    """How far the stage before the training proper is."""
    records = read_records(RunDir(folder / FIRST_STAGE).metrics)
    return f"first stage, {int(records[-1]['epoch'])} epochs done" if records else ""


def read_records(file: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; [] where there is none."""
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a writer is inside the line, or was killed there
        if isinstance(record, dict) and "epoch" in record:
            found.append(record)
    return found


def _figures(records: list[dict[str, Any]], config: dict[str, Any]) -> dict[str, Any]:
    """What the records say: of the last epoch, the last and the best evaluation, and how long an epoch takes."""
    if not records:
        return {}
    chosen_by = str(config.get("select_on", "test"))
    evaluated = [r for r in records if r.get("test_top1") is not None and r.get(f"{chosen_by}_top1") is not None]
    every = int(config["run"].get("eval_every", 1))
    # Epochs with and without evaluation in their true proportion; the first one holds the start-up.
    recent = records[1:][-every * -(-RECENT // every) :] or records
    return {
        "epoch": int(records[-1]["epoch"]),
        "top1_last": evaluated[-1]["test_top1"] if evaluated else None,
        "top1_best": best_record(evaluated, chosen_by)["test_top1"] if evaluated else None,
        "images_per_second": records[-1].get("images_per_second") or None,
        "epoch_seconds": sum(r["seconds"] for r in recent) / len(recent),
    }


def checkpoint_head(file: Path) -> dict[str, Any] | None:
    """{'position', 'resumed', ...} of a checkpoint without reading its tensors; None where none can be read."""
    try:
        # Mapped, so that an archive of a gigabyte costs as little as a small one; whether it is whole, resuming asks.
        head = torch.load(file, mmap=True, map_location="cpu", weights_only=True)
        return {"position": head["position"], "resumed": int(head["resumed"])}
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None


def locked_inodes(locks: Path = LOCKS) -> set[int] | None:
    """Inodes on which processes of this machine hold a lock; None where the system does not tell."""
    try:
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    rows = [line.split() for line in lines]
    return {int(row[5].rpartition(":")[2]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[3] == "WRITE"}


def is_held(folder: Path, inodes: set[int] | None) -> bool:
    """Whether a process of this machine trains in `folder`. inodes: of locked_inodes.

    The lock is tried only where the list says that it is held: a try that succeeds would, for an instant, stand in the
    way of a run that starts.
    """
    try:
        with (folder / ".lock").open() as handle:
            if inodes is not None and (folder / ".lock").stat().st_ino not in inodes:
                return False
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
