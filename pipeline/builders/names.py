"""Spellings of keys and names of parts, and the configuration of a command line. For entry points only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.config import TrainConfig, compose
from pipeline.datasets import DATASETS
from pipeline.distillers import DISTILLERS
from pipeline.engine.optimizers import OPTIMIZERS
from pipeline.loaders import LOADERS
from pipeline.models.blocks import BLOCKS, PLAIN
from pipeline.models.build import LOOKED_IN, resolve
from pipeline.registry import Registry
from pipeline.teachers import TEACHERS

C = TypeVar("C", bound=TrainConfig)
ALIASES = {"model": "student.model"}


def _registered(registry: Registry[Any]) -> Callable[[str, Mapping[str, Any]], str]:
    return lambda name, _: registry.canonical(name)


def _network(name: str, keys: Mapping[str, Any]) -> str:
    networks = keys.get("networks", "cifar")
    known = isinstance(networks, str) and networks in LOOKED_IN
    return resolve(name, networks) if known else name  # networks= is refused for itself


NAMES = {
    "dataset": _registered(DATASETS),
    "method": lambda name, _: "+".join(DISTILLERS.canonical(part) for part in name.split("+")),
    "student.model": _network,
    "student.block": lambda name, _: name if name == PLAIN else BLOCKS.canonical(name),
    "teacher.model": _network,
    "teacher.source": _registered(TEACHERS),
    "data.loader": _registered(LOADERS),
    "optim.name": _registered(OPTIMIZERS),
}


def arguments_of(method: str) -> type:
    """The dataclass of a method's hyper-parameters. Raises UnknownName."""
    return DISTILLERS.get(method).Config


def train_config(argv: Sequence[str]) -> TrainConfig:
    """The configuration that `pipeline/train.py ARGV` trains. Raises ConfigError with all problems, HelpRequested."""
    return config_of(TrainConfig, argv)


def config_of(schema: type[C], argv: Sequence[str], *, aliases: Mapping[str, str] = ALIASES) -> C:
    """The same of an entry point that has the keys of train.py and further ones."""
    return compose(schema, list(argv), aliases=aliases, names=NAMES, arguments_of=arguments_of)
