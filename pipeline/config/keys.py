"""Nested and dotted keys, and the error that collects what is wrong with them."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

Problems = list[str]


class ConfigError(ValueError):
    """One or more problems of a configuration, one per line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


class HelpRequested(Exception):
    """`--help` stood among the arguments."""


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; what stands below `method_args` keeps its own keys."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + str(name)] = value
    return flat


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged key by key, the later one wins."""
    merged = OmegaConf.merge(*(OmegaConf.create(dict(layer)) for layer in layers))
    result = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(result, dict)
    return {str(k): v for k, v in result.items()}
