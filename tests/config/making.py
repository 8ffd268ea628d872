"""Configurations for the tests of recipes and pairs, each layer's file parsed once."""

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.builders.names import NAMES, train_config
from pipeline.config import TrainConfig, layers, validate, validate_arguments
from pipeline.config.layers import CONFIGS, read_yaml
from pipeline.distillers import DISTILLERS

IMAGENET = "dataset=folder"


@functools.cache
def _parsed(path: Path) -> dict[str, Any]:
    return read_yaml(path)


def read_once(path: Path) -> dict[str, Any]:
    """As read_yaml; the files are read two thousand times."""
    return copy.deepcopy(_parsed(path))


def plain_make(*words: str) -> TrainConfig:
    """The configuration of a command line."""
    return train_config(words)


def make(*words: str) -> TrainConfig:
    """The same, with files read once for all tests."""
    with mock.patch.object(layers, "read_yaml", read_once):
        return plain_make(*words)


def composed(dataset: str, method: str, recipe: str, pair: str | None = None) -> TrainConfig:
    """As `make`, without OmegaConf's merges: 1 ms instead of 16, for the whole cross product."""
    found: list[str] = []
    chosen = {"dataset": dataset, "method": method, "recipe": recipe} | ({"pair": pair} if pair else {})
    nested: dict[str, Any] = {}
    with mock.patch.object(layers, "read_yaml", read_once):
        below = layers.layers_of(chosen, found, layers.SELECTORS, NAMES)
    for layer in below:
        for name in layer.keys() & TrainConfig.model_fields.keys():
            value = layer[name]
            nested[name] = nested.get(name, {}) | value if isinstance(value, dict) else value
    assert not found
    validate_arguments(DISTILLERS.get(method).Config, nested.get("method_args", {}))
    return validate(TrainConfig, nested | chosen)


def cifar(*words: str) -> TrainConfig:
    return make("dataset=cifar100", *words)


def steps(config: TrainConfig) -> tuple[int, float, int, tuple[int, ...]]:
    """Batch, rate, epochs, milestones."""
    return config.data.batch_size, config.optim.lr, config.optim.epochs, config.optim.milestones


def weights(config: TrainConfig, *names: str) -> list[float]:
    """Values of `method_args`."""
    return [config.method_args[name] for name in names]


def exceptions() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """File, selectors and settings of every `per:` entry; method/lskd+dkd is what lskd's file says of dkd."""
    for kind in ("dataset", "method", "recipe"):
        for file in sorted((CONFIGS / kind).glob("*.yaml")):
            content = read_once(file)
            changed = {f"+{other}": change for other, change in content.get("with", {}).items()}
            for other, part in {"": content, **changed}.items():
                for entry in part.get("per", []):
                    yield f"{kind}/{file.stem}{other}", entry["when"], entry["set"]
