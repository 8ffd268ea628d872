"""Spellings of keys and names of parts, and the configuration of a command line. For entry points only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.config import TrainConfig, compose
from pipeline.contracts import Distiller
from pipeline.datasets import DATASETS
from pipeline.distillers import DISTILLERS
from pipeline.engine.optimizers import OPTIMIZERS
from pipeline.loaders import LOADERS
from pipeline.models.blocks import BLOCKS, PLAIN
from pipeline.models.build import LOOKED_IN, resolve
from pipeline.registry import Registry
from pipeline.teachers import TEACHERS
from pipeline.utils.suggest import hint

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


def with_terms(kinds: Mapping[str, type[Distiller]]) -> dict[str, type[Distiller]]:
    """The parts of a method that have terms: all but those of a combination that only change others."""
    return {name: kind for name, kind in kinds.items() if not (kind.modifier and len(kinds) > 1)}


def variant_problems(method: str, variant: str) -> list[str]:
    """The line for a variant that a method, or a part of a combination, does not have; [] for an unknown method."""
    try:
        kinds = with_terms({name: DISTILLERS.get(name) for name in method.split("+")})
    except LookupError:
        return []
    lacking = [name for name, kind in kinds.items() if variant not in kind.variants]
    if variant == "default" or not lacking:
        return []
    of_all = [name for name in kinds[lacking[0]].variants if all(name in kind.variants for kind in kinds.values())]
    line = f"method {lacking[0]} has no variant {variant!r}{hint(variant, of_all)}"
    if len(kinds) == 1:
        return [f"{line} (known: {', '.join(of_all)})"]
    common = f"all have {', '.join(of_all)}" if of_all else "no name is one of all"
    return [f"{line}: variant= holds for every part of {method}, and {common}; without it each part has its default"]


def train_config(argv: Sequence[str]) -> TrainConfig:
    """The configuration that `pipeline/train.py ARGV` trains. Raises ConfigError with all problems, HelpRequested."""
    return config_of(TrainConfig, argv)


def config_of(schema: type[C], argv: Sequence[str], *, aliases: Mapping[str, str] = ALIASES) -> C:
    """The same of an entry point that has the keys of train.py and further ones."""
    return compose(
        schema, list(argv), aliases=aliases, names=NAMES, arguments_of=arguments_of, variant_problems=variant_problems
    )
