"""What lies in run folders: configuration, epochs, summary; which runs differ by their seed alone; their labels."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError, flatten, read_yaml
from pipeline.contracts import InputError
from pipeline.utils.untrusted_files import Unreadable, json_lines, read_object

# What a label says of a run, where runs differ in it.
TOLD = ("dataset", "method", "teacher.model", "student.model")
FURTHER = ("variant", "recipe", "teacher.source", "student.block")  # where the others do not tell runs apart
# Keys that say where and how a run goes, not what it trains.
ASIDE = (
    "run.",
    "log.",
    "runtime.",
    "data.root",
    "data.workers",
    "data.loader",
    "data.download",
    "data.eval_batch_size",
)
SEEDS = ("seed", "seeds", "data.seed")
FIGURES = ("epoch", "epochs", "seconds", "_per_second", "top1", "top5", "top1_best", "top1_last", "loss", "lr")
CHECKPOINTS = ("student.safetensors", "checkpoints/last.pt")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run folder. keys: its configuration, dotted; epochs: lines of metrics.jsonl; summary: None while it runs."""

    folder: Path
    keys: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    summary: dict[str, Any] | None

    @property
    def unfinished(self) -> bool:
        """Whether the run has not come to its end."""
        return self.summary is None

    @property
    def weights(self) -> Path | None:
        """The file of its student: the finished one, else the last checkpoint."""
        return next((self.folder / name for name in CHECKPOINTS if (self.folder / name).is_file()), None)

    @property
    def top1(self) -> float | None:
        """Test accuracy of the last evaluated epoch, per cent."""
        return next((r["test_top1"] for r in reversed(self.epochs) if r.get("test_top1") is not None), None)

    @property
    def best(self) -> float | None:
        """Test accuracy of the best epoch, per cent; as the run chose it, once it is finished."""
        if self.summary is not None:
            return self.summary.get("top1_best")
        return max((r["test_top1"] for r in self.epochs if r.get("test_top1") is not None), default=None)

    @property
    def speed(self) -> float | None:
        """Images/s in training, over all epochs there are."""
        if self.summary is not None:
            return float(self.summary.get("images_per_second") or 0)
        speeds = [record["images_per_second"] for record in self.epochs if record.get("images_per_second")]
        return sum(speeds) / len(speeds) if speeds else None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ by their seeds only, and what they are called."""

    label: str
    runs: tuple[RunRecord, ...]


def read_runs(folders: Iterable[str]) -> list[RunRecord]:
    """Each folder's run, or all runs below it. Raises InputError: no such folder, no run in it, damaged files."""
    found: dict[Path, RunRecord] = {}
    for name in folders:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise InputError(f"runs={name}: no such folder")
        inside = sorted(path.parent for path in folder.rglob("config.yaml") if not _is_aside(path, folder))
        runs = [run for run in map(_read, inside) if run is not None]
        if not runs:
            raise InputError(f"runs={name}: no run in it (a folder with config.yaml and metrics.jsonl)")
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


def _is_aside(path: Path, top: Path) -> bool:
    """Whether it lies in a run that was set aside (run.resume=never), or in a hidden folder."""
    names = path.relative_to(top).parts[:-1]
    return any(".old-" in name or name.startswith(".") for name in names)


def _read(folder: Path) -> RunRecord | None:
    try:
        keys = flatten(read_yaml(folder / "config.yaml"))
    except ConfigError as error:
        raise InputError(error.problems[0]) from None
    if "method" not in keys or "student.model" not in keys:
        return None  # a config.yaml of something else
    return RunRecord(folder=folder, keys=keys, epochs=_epochs(folder / "metrics.jsonl"), summary=_summary(folder))


def _epochs(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(_checked(line, path) for line in json_lines(path) if "epoch" in line)
    except Unreadable as error:
        raise InputError(str(error)) from None


def _summary(folder: Path) -> dict[str, Any] | None:
    path = folder / "summary.json"
    if not os.path.lexists(path):
        return None
    try:
        return _checked(read_object(path, finite=False), path)
    except Unreadable as error:
        raise InputError(str(error)) from None


def _checked(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """A record whose figures are numbers. Raises InputError."""
    for name, value in record.items():
        if name.endswith(FIGURES) and not (
            value is None or (isinstance(value, int | float) and type(value) is not bool)
        ):
            raise InputError(f"{path} is damaged: {name} is {json.dumps(value)[:40]}")
    return record


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
    """Runs of equal settings together, named by what differs among all of them, in the order they were given."""
    kinds: dict[str, list[RunRecord]] = {}
    for run in runs:
        kept = {k: v for k, v in run.keys.items() if not k.startswith(ASIDE) and k not in (*SEEDS, "pair")}
        kinds.setdefault(json.dumps(kept, sort_keys=True, default=str), []).append(run)
    names = [_label(members[0], runs, TOLD) for members in kinds.values()]
    if len(set(names)) < len(names):
        names = [_label(members[0], runs, TOLD + FURTHER) for members in kinds.values()]
    groups = []
    for name, members in zip(names, kinds.values(), strict=True):
        where = f" ({members[0].folder.name})" if names.count(name) > 1 else ""
        groups.append(Group(label=name + where, runs=tuple(members)))
    return groups


def _label(run: RunRecord, runs: Sequence[RunRecord], keys: Sequence[str]) -> str:
    told = [k for k in keys if k == "method" or len({str(other.keys.get(k)) for other in runs}) > 1]
    words = [str(run.keys.get(k)) for k in told if k not in ("teacher.model", "student.model")]
    networks = [str(run.keys[k]) for k in ("teacher.model", "student.model") if k in told and run.keys.get(k)]
    return " ".join([*words, " > ".join(network.rpartition("/")[2] for network in networks)]).strip()


def remarks(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know of runs that have not come to their end, one line each."""
    lines = []
    for run in runs:
        if run.unfinished:
            planned = run.keys.get("optim.epochs")
            lines.append(f"{run.folder}: unfinished, {len(run.epochs)} of {planned} epochs; shown as far as it goes")
    return lines
