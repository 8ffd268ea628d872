"""The runs of a sweep, and the words that start them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from launch.jobs.run_spec import RunSpec
from pipeline.builders.method import method_kinds
from pipeline.config import TrainConfig
from pipeline.contracts import Signal

CHECKPOINT = "teacher.checkpoint"
PLAIN = re.compile(r"[A-Za-z_/.][\w./+-]*")


@dataclass
class Plan:
    """A whole sweep, in the order of its stages. repeats: runs that equal another one and are left out."""

    folder: Path
    teachers: list[RunSpec] = field(default_factory=list)
    caches: list[RunSpec] = field(default_factory=list)
    students: list[RunSpec] = field(default_factory=list)
    repeats: int = 0

    @property
    def runs(self) -> list[RunSpec]:
        """All of them, each after what it waits for."""
        return [*self.teachers, *self.caches, *self.students]


def words_of(keys: Mapping[str, Any]) -> list[str]:
    """key=value words that mean `keys`."""
    return [f"{name}={_word(value)}" for name, value in keys.items()]


def _word(value: Any) -> str:
    """As YAML reads it back; without quotes where it can."""
    plain = isinstance(value, str) and PLAIN.fullmatch(value) and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value)


def needs_teacher(config: TrainConfig) -> bool:
    """Whether its method asks for anything of a teacher."""
    return any(kind.needs for kind in method_kinds(config).values())


def reads_maps(config: TrainConfig) -> bool:
    """Whether its method asks for feature maps, which no cache holds."""
    return any(Signal.FEATURES in kind.needs for kind in method_kinds(config).values())
