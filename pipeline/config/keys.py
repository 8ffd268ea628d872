"""Nested and dotted keys, and the error that collects what is wrong with them."""

from collections.abc import Callable, Mapping
from typing import Any

Problems = list[str]
MOST_LINES = 50  # of an error


class ConfigError(ValueError):
    """One or more problems of a configuration, one per line."""

    def __init__(self, problems: list[str]) -> None:
        told = list(dict.fromkeys(problems))
        more = len(told) - MOST_LINES
        self.problems = told if more <= 0 else [*told[:MOST_LINES], f"and {more:,} more problems of this kind"]
        super().__init__("\n".join(self.problems))


class NoLayer(ConfigError):
    """There is no configs/<kind>/<name>.yaml."""

    def __init__(self, problems: Problems, kind: str, name: str) -> None:
        super().__init__(problems)
        self.kind, self.name = kind, name

    def told(self, names: Mapping[str, Callable[[str, Mapping[str, Any]], str]]) -> Problems:
        """The problems; of a part whose class is registered (names: see `compose`), which file is missing."""
        try:
            name = names[self.kind](self.name, {})
        except LookupError:
            return self.problems
        file = f"configs/{self.kind}/{name}.yaml"
        return [f"{self.kind} {name!r} is registered, but its file {file} is missing; it may hold a comment only"]


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


def nested(name: str, value: Any) -> dict[str, Any]:
    """{'a': {'b': value}} for the key 'a.b'."""
    for part in reversed(name.split(".")):
        value = {part: value}
    found: dict[str, Any] = value
    return found


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged key by key, the later one wins. The result is the caller's own."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = merged.get(name)
            if isinstance(value, Mapping):
                value = merge(below if isinstance(below, Mapping) else {}, value)
            merged[name] = value
    return merged
