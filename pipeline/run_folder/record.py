"""What lies in a run folder, for whoever reads the runs of others: table, status, pictures, sweeps.

The run's own process reads and writes by folder.py. Nothing here writes, locks, or loads weights.
"""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import TrainConfig, flatten, read_yaml, validate
from pipeline.config.affects import keys_that_affect
from pipeline.config.pairs import pair_name
from pipeline.contracts import InputError
from pipeline.run_folder.folder import RunDir
from pipeline.run_folder.metrics_file import Record
from pipeline.run_folder.summary import Summary
from pipeline.utils.untrusted_files import Unreadable, json_lines, read_json, read_text

CONFIG = "config.yaml"
SET_ASIDE = re.compile(r"\.old-\d+$")  # what run.resume=never renames a folder to
# Keys that say where files lie, or differ between seeds by intention.
PLACES = {*keys_that_affect(TrainConfig, "place"), "data.seed", "seed"}
# libyaml is ten times as fast as the parser in Python, and a configuration takes most of the reading.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST = 4 << 20  # bytes of a configuration
NONE = object()  # no file: one that holds null is damaged


@dataclass(frozen=True)
class RunRecord:
    """The run in `folder`: each file is read when it is first asked for, and kept as it was then.

    Raises Unreadable for a file that cannot be used, ConfigError for keys or figures that no run has.
    """

    folder: Path

    @functools.cached_property
    def files(self) -> RunDir:
        """Where its files lie."""
        return RunDir(self.folder)

    @functools.cached_property
    def config(self) -> TrainConfig:
        """Its configuration; keys that came later have their defaults."""
        return validate(TrainConfig, read_yaml(self.files.config, TrainConfig))

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """config.yaml nested, unchecked."""
        return read_yaml(self.files.config)

    @functools.cached_property
    def keys(self) -> dict[str, Any]:
        """The same by dotted keys."""
        return flatten(self.content)

    @functools.cached_property
    def sections(self) -> dict[str, Any]:
        """config.yaml nested, unchecked but for its sections `run` and `optim`; cheap. Raises ValueError."""
        file = self.files.config
        try:
            found = yaml.load(read_text(file, MOST), Loader=LOADER)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from None
        for section in ("run", "optim"):
            if not isinstance(found, dict) or not isinstance(found.get(section), dict):
                raise ValueError(f"{file} is not the configuration of a run: there is no {section}")
        return found

    @functools.cached_property
    def epochs(self) -> tuple[Record, ...]:
        """The whole lines of metrics.jsonl, () where there is none: a writer may be inside the last one."""
        return tuple(record for record in json_lines(self.files.metrics) if "epoch" in record)

    @functools.cached_property
    def _summary(self) -> Any:
        file = self.files.summary
        return read_json(file, finite=False) if os.path.lexists(file) else NONE

    @property
    def summary(self) -> Record | None:
        """summary.json, None where there is none."""
        if self._summary is NONE:
            return None
        if not isinstance(self._summary, dict):
            raise Unreadable(f"{self.files.summary} is damaged: no JSON object")
        return self._summary

    @functools.cached_property
    def result(self) -> Summary | None:
        """summary.json, checked; None for a run that is not `finished`."""
        found = None if self._summary is NONE else validate(Summary, self._summary)
        return found if self.finished else None

    @property
    def finished(self) -> bool:
        """Whether it has come to the end that its configuration asks for by now."""
        if self.summary is None:
            return False
        wanted, limit = self.config.optim.epochs, self.config.run.limit_steps
        return is_end(self.summary.get("epochs"), self.summary.get("steps"), wanted, limit)

    @property
    def weights(self) -> Path | None:
        """The file of its student: the finished one, else the last checkpoint."""
        return next((file for file in (self.files.student, self.files.checkpoints.last) if file.is_file()), None)

    @property
    def top1(self) -> float | None:
        """Test accuracy of the last evaluated epoch, per cent."""
        return next((r["test_top1"] for r in reversed(self.epochs) if r.get("test_top1") is not None), None)

    @property
    def best(self) -> float | None:
        """Test accuracy of the best epoch, per cent; as the run chose it, once it is finished."""
        if self.summary is not None and self.finished:
            return self.summary.get("top1_best")
        return max((r["test_top1"] for r in self.epochs if r.get("test_top1") is not None), default=None)

    @property
    def speed(self) -> float | None:
        """Images/s in training, over all epochs there are."""
        if self.summary is not None and self.finished:
            return float(self.summary.get("images_per_second") or 0)
        speeds = [record["images_per_second"] for record in self.epochs if record.get("images_per_second")]
        return sum(speeds) / len(speeds) if speeds else None

    @property
    def pair(self) -> str:
        """As in configs/pairs.yaml where that pair has these networks; else TEACHER-STUDENT; the student alone."""
        teacher, student = self.config.teacher.model, str(self.config.student.model)
        return self.config.pair or (pair_name(teacher, student) if teacher else student)

    @functools.cached_property
    def settings(self) -> Mapping[str, Any]:
        """Dotted keys that say what was trained, without those that may differ between the seeds of one cell."""
        keys = {k: v for k, v in flatten(self.config.numbers()).items() if k not in PLACES}
        keys["run.limit_steps"] = self.config.run.limit_steps
        checkpoint = keys["teacher.checkpoint"]
        keys["teacher.checkpoint"] = re.sub(r"seed\d+", "seed*", checkpoint) if checkpoint else checkpoint
        return keys


def is_end(epochs: int | None, steps: int | None, wanted: int, limit: int | None) -> bool:
    """Whether a run that ended after so many epochs and steps (None: not said) has all that it is to have.

    wanted: epochs; limit: run.limit_steps.
    """
    return epochs is None or epochs >= wanted or (limit is not None and (steps is None or steps >= limit))


def check_folder(top: Path) -> None:
    """Raises InputError for what is no folder."""
    if not top.is_dir():
        raise InputError(f"{top} is not a folder" if top.exists() else f"no such folder: {top}")


def find_runs(top: Path) -> list[Path]:
    """Run folders at or below `top`, sorted; none inside another, and set-aside or hidden ones only where named."""
    found = []
    for place, folders, files in os.walk(top):
        if CONFIG in files:
            found.append(Path(place))
            folders.clear()
        else:
            folders[:] = entered(folders)
    return sorted(found)


def entered(folders: list[str]) -> list[str]:
    """Those of a folder's folders in which runs are looked for."""
    return [name for name in folders if not SET_ASIDE.search(name) and not name.startswith(".")]
