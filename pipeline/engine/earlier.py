"""Defaults that have changed since a run began: it goes on with those that it began with."""

from pathlib import Path

from pipeline.config import ConfigError, TrainConfig, flatten, read_yaml
from pipeline.readings import Unreadable
from pipeline.weights import PLAIN

# What a run did that does not know the key yet: a file with averaged weights beside others gave the others.
EARLIER = {"teacher.weights": PLAIN, "student.weights": PLAIN}


def as_recorded(config: TrainConfig, folder: Path) -> TrainConfig:
    """`config`, with the old value of what the run in `folder` does not know of yet, or took over from such a run."""
    try:
        there = flatten(read_yaml(folder / "config.yaml", TrainConfig)) if (folder / "config.yaml").is_file() else None
    except (ConfigError, Unreadable, OSError):
        return config  # said where the folder is claimed
    if there is None:
        return config
    for key, old in EARLIER.items():
        section, name = key.split(".")
        keys = getattr(config, section)
        if getattr(keys, name) is None and there.get(key, old) == old:
            config = config.model_copy(update={section: keys.model_copy(update={name: old})})
    return config
