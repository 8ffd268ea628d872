"""Defaults that have changed since a run began: it goes on with those that it began with."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError, TrainConfig, flatten, read_yaml
from pipeline.config.affects import before
from pipeline.run_folder.checkpoint_file import Checkpoints
from pipeline.utils.untrusted_files import Unreadable

# What a run did that does not know the key yet.
EARLIER = dict(before(TrainConfig))
# The variants that were the defaults of methods before others became so.
WAS_DEFAULT = {"hkd": "paper", "ofd": "eval_teacher"}
# Variants that presets named for some pairs of networks, and that are the defaults since.
NAMED_DEFAULT = {"hkd": "semckd"}


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
    was, named = WAS_DEFAULT.get(config.method), NAMED_DEFAULT.get(config.method)
    if config.variant == "default" and named is not None and there.get("variant") == named:
        config = config.model_copy(update={"variant": named})
    elif config.variant == "default" and was is not None and _trains_by(was, config.method, folder):
        config = config.model_copy(update={"variant": was})
    return config


def as_begun(config: TrainConfig, folders: Iterable[Path]) -> TrainConfig:
    """`as_recorded` by the first of these runs that began with an old value: seeds of one group, all with the same."""
    return next((old for folder in folders if (old := as_recorded(config, folder)) != config), config)


def _trains_by(variant: str, method: str, folder: Path) -> bool:
    """Whether the run in `folder` has begun to train by `variant`: its checkpoint says so, or is older than such a
    note."""
    state, _ = Checkpoints(folder / "checkpoints").load_last()
    if not isinstance(state, dict):
        return False
    noted: Any = state.get("formulas", {method: [variant]})
    return isinstance(noted, dict) and isinstance(noted.get(method), list) and noted[method][:1] == [variant]
