"""Run folders as results: found below the folders given, read, grouped by everything but the seed."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from launch.tables.published import pair_networks
from pipeline.config import ConfigError, TrainConfig, flatten, read_yaml, validate
from pipeline.config.base import Section
from pipeline.contracts import InputError
from pipeline.run_folder.folder import RunDir
from pipeline.utils.untrusted_files import Unreadable, json_lines

SET_ASIDE = re.compile(r"\.old-\d+$")  # what run.resume=never renames a folder to
VISIBLE = ("dataset", "pair", "method", "variant", "recipe", "student.model", "teacher.model")  # columns of their own
PLACES = ("teacher.root", "data.seed", "seed")  # say where files lie, or differ between seeds by intention


class Summary(Section):
    """What the table needs of summary.json. Accuracies in per cent."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    epochs: int = Field(ge=1)
    top1_last: float = Field(ge=0, le=100)
    top1_best: float = Field(ge=0, le=100)
    select_on: str


@dataclass(frozen=True)
class Run:
    """One run folder; summary None: not finished, and `state` says how far it is."""

    folder: Path
    config: TrainConfig
    summary: Summary | None
    state: str

    @property
    def pair(self) -> str:
        """As in configs/pairs.yaml where that pair has these networks; else TEACHER-STUDENT; the student alone."""
        teacher, student = self.config.teacher.model, str(self.config.student.model)
        if self.config.pair or not teacher:
            return self.config.pair or student
        named = (
            name
            for name, row in pair_networks().items()
            if _is(teacher, row["teacher"]) and _is(student, row["student"])
        )
        return next(named, f"{teacher}-{student}")  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Dotted keys that say what was trained, without those that may differ between the seeds of one cell."""
        keys = {k: v for k, v in flatten(self.config.numbers()).items() if k not in PLACES}
        keys["run.limit_steps"] = self.config.run.limit_steps
        checkpoint = keys["teacher.checkpoint"]
        keys["teacher.checkpoint"] = re.sub(r"seed\d+", "seed*", checkpoint) if checkpoint else checkpoint
        return keys


@dataclass
class Group:
    """Runs that differ in the seed only; `settings` holds what tells it from other groups of the same columns."""

    runs: list[Run]
    unfinished: list[Run] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def any_run(self) -> Run:
        return (self.runs or self.unfinished)[0]

    @property
    def seeds(self) -> list[int]:
        return sorted(run.config.seed for run in self.runs)

    def top1(self, epoch: str) -> list[float]:
        """Of the "last" or the "best" epoch, in the order of `runs`."""
        return [getattr(run.summary, f"top1_{epoch}") for run in self.runs]


def _is(one: str, other: str) -> bool:
    return one.rpartition("/")[2].lower() == other.rpartition("/")[2].lower()


def find_folders(paths: Iterable[Path]) -> list[Path]:
    """Run folders at or below `paths`, sorted, each once; set-aside runs only where named. Raises InputError."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is not a folder" if path.exists() else f"no such folder: {path}")
        below = sorted(_below(path))
        if not below:
            raise InputError(f"{path} holds no run (no config.yaml in it or below)")
        found.update(dict.fromkeys(below))
    return list(found)


def _below(top: Path) -> Iterable[Path]:
    for place, folders, files in os.walk(top):
        if "config.yaml" in files:
            yield Path(place).resolve()
            folders.clear()
        else:
            folders[:] = [f for f in folders if not SET_ASIDE.search(f) and not f.startswith(".")]


def read_run(folder: Path) -> Run:
    """One run folder. Raises InputError with one line that names the file."""
    files = RunDir(folder)
    try:
        config = validate(TrainConfig, read_yaml(files.config, TrainConfig))
    except ConfigError as error:
        raise InputError(f"{files.config} is not the configuration of a run: {error.problems[0]}") from None
    try:
        content = files.read_summary()
        summary = None if content is None else validate(Summary, content)
    except ConfigError as error:
        raise InputError(f"{files.summary} is not the summary of a run: {error.problems[0]}") from None
    except (ValueError, OSError, TypeError) as error:
        raise InputError(f"cannot read {files.summary}: {' '.join(str(error).split())}") from None
    if summary is not None and config.run.limit_steps is None and summary.epochs < config.optim.epochs:
        summary = None  # config.yaml asks for more epochs by now
    return Run(folder, config, summary, "done" if summary else _progress(files, config.optim.epochs))


def _progress(files: RunDir, epochs: int) -> str:
    try:
        done = [r["epoch"] for r in json_lines(files.metrics) if type(r.get("epoch")) is int]
    except Unreadable as error:
        raise InputError(f"cannot read {files.metrics}: {error}") from None
    return f"epoch {done[-1] if done else 0} of {epochs}"


def group(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """(groups in a stable order, one line for each run that repeats another one's seed and is left out)."""
    by_settings: dict[str, Group] = {}
    repeated = []
    for run in runs:
        key = json.dumps([run.pair, run.settings()], sort_keys=True)
        into = by_settings.setdefault(key, Group([]))
        same = [r for r in into.runs if r.config.seed == run.config.seed]
        if run.summary is None:
            into.unfinished.append(run)
        elif same:
            repeated.append(f"{run.folder}: same settings and seed as {same[0].folder}, left out")
        else:
            into.runs.append(run)
    groups = sorted(by_settings.values(), key=_order)
    for one in groups:
        one.runs.sort(key=lambda run: run.config.seed)
    _tell_apart(groups)
    return groups, repeated


def _columns(run: Run) -> tuple[str, str, str, str, str]:
    config = run.config
    return config.dataset, run.pair, config.method, config.variant, config.recipe


def _order(one: Group) -> tuple[Any, ...]:
    return *_columns(one.any_run), json.dumps(one.any_run.settings(), sort_keys=True)


def _tell_apart(groups: list[Group]) -> None:
    """Fills `settings` of groups that share all columns."""
    alike: dict[Any, list[Group]] = {}
    for one in groups:
        alike.setdefault(_columns(one.any_run), []).append(one)
    for same in alike.values():
        keys = [one.any_run.settings() for one in same]
        differ = [
            k for k in dict.fromkeys(k for row in keys for k in row) if len({_text(row.get(k)) for row in keys}) > 1
        ]
        for one, row in zip(same, keys, strict=True):
            one.settings = {k: row.get(k) for k in differ if k not in VISIBLE}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def settings_text(settings: Mapping[str, Any]) -> str:
    """'optim.lr=0.1 run.limit_steps=-': None is a dash."""
    return " ".join(f"{k}={'-' if v is None else v if isinstance(v, str) else _text(v)}" for k, v in settings.items())


def mean_std(values: list[float]) -> tuple[float, float | None]:
    """(mean, sample standard deviation; None for one value)."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
