"""The weights that the students of a sweep learn from."""

import json
import re
from pathlib import Path

from launch.jobs.run_spec import RunSpec
from launch.sweeps.cells import Cell
from launch.sweeps.keys import Keys, SweepFile
from launch.sweeps.names import short
from launch.sweeps.runs import CHECKPOINT, needs_teacher, words_of
from pipeline.builders.names import train_config
from pipeline.config import ConfigError, TrainConfig, flatten

# Keys that the training of a teacher lacks, or that the sweep sets for it; those in dots with all below them.
OF_STUDENTS = (
    "method_args.",
    "teacher.",
    "student.",
    "variant",
    "pair",
    "method",
    "recipe",
    "seed",
    "model",
    "run.dir",
)
VIEW = ("mean", "std", "image_size")


class Teachers:
    """The weights that students learn from; with teachers=train, one run for each network and data set."""

    def __init__(self, file: SweepFile, words: Keys, folder: Path) -> None:
        self.file, self.words, self.folder = file, words, folder
        self.runs: dict[str, RunSpec] = {}

    def serve(self, cell: Cell, config: TrainConfig) -> tuple[Keys, Path | None]:
        """(the cell's keys with its teacher's weights, folder of the run that makes these). Raises ConfigError."""
        if self.file.teachers == "given" or config.teacher.checkpoint is not None or not needs_teacher(config):
            return cell.keys, None
        if self.file.teachers == "auto":
            return {**cell.keys, CHECKPOINT: "auto"}, None
        what = (config.dataset, config.teacher.model, config.teacher.args)
        key = json.dumps(what, sort_keys=True)
        if key not in self.runs:
            self.runs[key] = self._train(cell, config)
        run = self.runs[key]
        return {**cell.keys, CHECKPOINT: str(run.folder), **own_view(run.config, config)}, run.folder

    def _train(self, cell: Cell, config: TrainConfig) -> RunSpec:
        of_data = {k: v for k, v in cell.keys.items() if k.startswith("data.")}
        common = {k: v for k, v in (self.file.set | of_data | self.words).items() if not k.startswith(OF_STUDENTS)}
        keys: Keys = {**common, "dataset": config.dataset, "student.model": config.teacher.model}
        keys |= (
            {"seed": 0}
            | {f"student.args.{k}": v for k, v in flatten(config.teacher.args).items()}
            | self.file.teacher_set
        )
        network = re.sub("[/:]", "-", str(config.teacher.model))
        name = f"{config.dataset}/teacher/{network}/seed{keys['seed']}"
        if any(run.name == name for run in self.runs.values()):
            name = name.replace(network, f"{network}-{short(config.teacher.args)}")
        keys |= {"run.dir": str(self.folder), "run.name": name}
        try:
            made = train_config(words_of(keys))
        except ConfigError as error:
            raise ConfigError([f"teacher {network}: {problem}" for problem in error.problems]) from None
        return RunSpec(name=name, folder=self.folder / name, words=tuple(words_of(keys)), config=made, helper=True)


def own_view(teacher: TrainConfig, student: TrainConfig) -> Keys:
    """teacher.* where it was trained on other mean, std or sizes than the student's recipe has."""
    names = [name for name in VIEW if getattr(teacher.data, name) != getattr(student.data, name)]
    found = {name: getattr(teacher.data, name) for name in names if getattr(student.teacher, name) is None}
    return {f"teacher.{name}": list(v) if isinstance(v, tuple) else v for name, v in found.items()}
