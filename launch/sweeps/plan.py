"""Cells as runs: composed, checked and named; every problem is found before anything is sent."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launch.jobs.run_spec import RunSpec
from launch.sweeps.cells import Cell
from launch.sweeps.keys import Keys, SweepFile
from launch.sweeps.names import name_cells
from launch.sweeps.runs import CHECKPOINT, Plan, needs_teacher, words_of
from launch.sweeps.teachers import VIEW, Teachers
from pipeline.builders.method import method_kinds
from pipeline.builders.names import train_config
from pipeline.config import ConfigError, TrainConfig
from pipeline.contracts import InputError
from pipeline.registry import UnknownName

SHOWN = 10  # problems


@dataclass
class Problems:
    """What is wrong, and with which cells."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, texts: Iterable[str], label: str) -> None:
        """These hold for the cell called `label`."""
        for text in texts:
            self.found.setdefault(text, []).append(label)

    def check(self, cells: int) -> None:
        """Raises ConfigError with the first lines, if any. cells: how many there are."""
        lines = [f"{self._who(labels, cells)}: {text}" for text, labels in self.found.items()]
        more = [f"and {len(lines) - SHOWN} more problems"] if len(lines) > SHOWN else []
        if lines:
            raise ConfigError(lines[:SHOWN] + more)

    def _who(self, labels: list[str], cells: int) -> str:
        if len(labels) == 1:
            return labels[0]
        return f"all {cells} cells" if len(labels) == cells else f"{labels[0]} and {len(labels) - 1} more cells"


def label_of(keys: Mapping[str, Any]) -> str:
    """What a cell is called in messages."""
    pair = keys.get("pair") or "-".join(str(keys[k]) for k in ("teacher.model", "student.model") if keys.get(k))
    first = [str(keys[k]) for k in ("dataset", "method") if k in keys] + ([pair] if pair else [])
    rest = [f"{k}={keys[k]}" for k in keys if k.startswith("method_args.")]
    return " ".join([*first, *rest]) or "the run"


def config_of(keys: Keys) -> TrainConfig:
    """The configuration of a cell's first run, without its teacher's weights. Raises ConfigError, InputError."""
    try:
        config = train_config(words_of(keys))
    except UnknownName as error:
        raise InputError(str(error.args[0])) from None
    kinds = method_kinds(config)
    if any(kind.needs for kind in kinds.values()) and config.teacher.model is None:
        raise InputError(f"method {config.method} needs a teacher: give pair=TEACHER-STUDENT, or teacher.model=")
    if config.student.model is None:
        raise InputError("no student: give pair=TEACHER-STUDENT, or model=")
    return config


def compose_cells(cells: Sequence[Cell], teachers: str) -> list[TrainConfig]:
    """A configuration for each cell. Raises ConfigError with the problems of all."""
    problems, configs = Problems(), []
    for cell in cells:
        label = label_of(cell.keys)
        try:
            config = config_of(cell.keys)
        except ConfigError as error:
            problems.add(error.problems, label)
            continue
        except InputError as error:
            problems.add([str(error.args[0])], label)
            continue
        if teachers == "given" and needs_teacher(config) and config.teacher.checkpoint is None:
            problems.add(
                [f"needs {CHECKPOINT}=, or teachers=auto (published weights) or teachers=train (trained first)"], label
            )
        configs.append(config)
    problems.check(len(cells))
    return configs


def make_plan(file: SweepFile, cells: Sequence[Cell], words: Keys, folder: Path) -> Plan:
    """The runs of `cells` below `folder`, and those of their teachers. Raises ConfigError, InputError."""
    configs = compose_cells(cells, file.teachers)
    given = sum(len(cell.seeds) for cell in cells)
    rows = once(cells, configs)
    cells, configs = [cell for cell, _ in rows], [config for _, config in rows]
    plan, teachers = Plan(folder), Teachers(file, words, folder)
    for cell, config, name in zip(cells, configs, name_cells(cells, configs), strict=True):
        keys, waits = teachers.serve(cell, config)
        plan.students += [student(folder, name, {**keys, "seed": seed}, config, waits) for seed in cell.seeds]
    plan.teachers = [*teachers.runs.values()]
    plan.repeats = given - len(plan.students)
    return plan


def once(cells: Sequence[Cell], configs: Sequence[TrainConfig]) -> list[tuple[Cell, TrainConfig]]:
    """Cells that do the same become one, with the seeds of all."""
    found: dict[str, tuple[Cell, TrainConfig]] = {}
    for cell, config in zip(cells, configs, strict=True):
        first, made = found.setdefault(identity(config), (cell, config))
        if first is not cell:
            seeds = tuple(dict.fromkeys((*first.seeds, *cell.seeds)))
            found[identity(config)] = replace(first, seeds=seeds), made
    return list(found.values())


def student(folder: Path, name: str, keys: Keys, config: TrainConfig, waits: Path | None) -> RunSpec:
    """One run of a cell: its configuration with seed, teacher's weights and place, and the words that give it."""
    name = f"{name}/seed{keys['seed']}"
    keys = {**keys, "run.dir": str(folder), "run.name": name}
    told = {k: keys[f"teacher.{k}"] for k in ("checkpoint", *VIEW) if f"teacher.{k}" in keys}
    teacher = config.teacher.model_copy(update={k: tuple(v) if isinstance(v, list) else v for k, v in told.items()})
    run = config.run.model_copy(update={"dir": str(folder), "name": name})
    made = config.model_copy(update={"seed": keys["seed"], "teacher": teacher, "run": run})
    return RunSpec(name=name, folder=folder / name, words=tuple(words_of(keys)), config=made, waits=waits)


def identity(config: TrainConfig) -> str:
    """Equal for runs that do the same, wherever they write; a student alone has no teacher, whatever its pair."""
    keys = config.model_dump(mode="json", exclude={"log": True, "pair": True, "run": {"name", "dir"}})
    keys["teacher"] = keys["teacher"] if needs_teacher(config) else None
    return json.dumps(keys, sort_keys=True)
