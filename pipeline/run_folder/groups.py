"""Runs that differ by their seed alone, for the table and the pictures."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.contracts import InputError
from pipeline.run_folder.metrics_file import Record
from pipeline.run_folder.record import RunRecord, find_runs
from pipeline.utils.untrusted_files import Unreadable

# What a label says of a run, where runs differ in it.
TOLD = ("dataset", "method", "teacher.model", "student.model")
FURTHER = ("variant", "recipe", "teacher.source", "student.block")  # where the others do not tell runs apart
FIGURES = ("epoch", "epochs", "steps", "seconds", "_per_second", "top1", "top5", "top1_best", "top1_last", "loss", "lr")


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that differ in the seed only, in the order they were given.

    label: what the pictures call it; settings: what tells it from other rows of a table with the same columns.
    """

    runs: tuple[RunRecord, ...]
    label: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> list[RunRecord]:
        """The finished ones by their seeds, the first one of each seed."""
        first: dict[int, RunRecord] = {}
        for run in self.runs:
            if run.finished:
                first.setdefault(run.config.seed, run)
        return [first[seed] for seed in sorted(first)]

    @property
    def unfinished(self) -> list[RunRecord]:
        """Those on their way."""
        return [run for run in self.runs if not run.finished]

    @property
    def any_run(self) -> RunRecord:
        """One of them, a finished one if there is any."""
        return next(iter(self.done), self.runs[0])

    @property
    def seeds(self) -> list[int]:
        """Those of `done`."""
        return [run.config.seed for run in self.done]


def by_settings(runs: Iterable[RunRecord]) -> list[RunGroup]:
    """Runs with the same settings (RunRecord.settings, and the name of the pair) together, in the order given."""
    members: dict[str, list[RunRecord]] = {}
    for run in runs:
        members.setdefault(json.dumps([run.pair, run.settings], sort_keys=True), []).append(run)
    return [RunGroup(runs=tuple(same)) for same in members.values()]


def repeats(groups: Sequence[RunGroup]) -> dict[Path, Path]:
    """{folder of a finished run: of the one with its settings and seed that counts in its place}."""
    counted = {(k, run.config.seed): run for k, group in enumerate(groups) for run in group.done}
    return {
        run.folder: counted[k, run.config.seed].folder
        for k, group in enumerate(groups)
        for run in group.runs
        if run.finished and counted[k, run.config.seed] is not run
    }


def read_runs(folders: Iterable[str]) -> list[RunRecord]:
    """Each folder's run, or all runs below it. Raises InputError: no such folder, no run in it, damaged files."""
    found: dict[Path, RunRecord] = {}
    for name in folders:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise InputError(f"runs={name}: no such folder")
        runs = [run for run in map(RunRecord, find_runs(folder)) if _is_training(run)]
        if not runs:
            raise InputError(f"runs={name}: no run in it (a folder with config.yaml and metrics.jsonl)")
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


def _is_training(run: RunRecord) -> bool:
    """Whether it is a run and no config.yaml of something else. Raises InputError for damaged files."""
    try:
        if "method" not in run.keys or "student.model" not in run.keys:
            return False
        for record in run.epochs:
            _check(record, run.files.metrics)
        _check(run.summary or {}, run.files.summary)
    except ConfigError as error:
        raise InputError(error.problems[0]) from None
    except Unreadable as error:
        raise InputError(str(error)) from None
    try:
        return bool(run.settings)
    except ConfigError as error:
        raise InputError(f"{run.files.config}: {error.problems[0]}") from None


def _check(record: Record, path: Path) -> None:
    """Raises InputError for a record whose figures are no numbers; a loss alone may be infinite or not a number."""
    for name, value in record.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        drawn = number and (name.endswith("loss") or math.isfinite(value))
        if name.endswith(FIGURES) and not (drawn or (value is None and name != "epoch")):
            raise InputError(f"{path} is damaged: {name} is {json.dumps(value)[:40]}")


def labelled(runs: Sequence[RunRecord]) -> list[RunGroup]:
    """The groups of `runs`, named by what differs among all of them."""
    groups = by_settings(runs)
    names = [_label(group.runs[0], runs, TOLD) for group in groups]
    if len(set(names)) < len(names):
        names = [_label(group.runs[0], runs, TOLD + FURTHER) for group in groups]
    named = []
    for name, group in zip(names, groups, strict=True):
        where = f" ({group.runs[0].folder.name})" if names.count(name) > 1 else ""
        named.append(replace(group, label=name + where))
    return named


def _label(run: RunRecord, runs: Sequence[RunRecord], keys: Sequence[str]) -> str:
    told = [k for k in keys if k == "method" or len({str(other.keys.get(k)) for other in runs}) > 1]
    words = [str(run.keys.get(k)) for k in told if k not in ("teacher.model", "student.model")]
    networks = [str(run.keys[k]) for k in ("teacher.model", "student.model") if k in told and run.keys.get(k)]
    return " ".join([*words, " > ".join(network.rpartition("/")[2] for network in networks)]).strip()


def remarks(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know of runs that have not come to their end or do not count, one line each."""
    lines = []
    for run in runs:
        if not run.finished:
            planned = run.config.optim.epochs
            lines.append(f"{run.folder}: unfinished, {len(run.epochs)} of {planned} epochs; shown as far as it goes")
    twice = repeats(by_settings(runs))
    return lines + [f"{run}: same settings and seed as {other}, left out of the means" for run, other in twice.items()]
