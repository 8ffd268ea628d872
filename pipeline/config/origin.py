"""Which file a wrong value stands in."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.config.keys import MOST_LINES, ConfigError, Problems, flatten
from pipeline.config.layer_folders import place_of
from pipeline.config.layers import layer_file, layer_path, parts_of
from pipeline.config.validation import FREE_FORM
from pipeline.utils.places import CONFIGS

KEY = re.compile(r"(unknown key ')?([\w.]+)(?=[=:'])")
Source = tuple[str, Mapping[str, Any]]  # what the file is called, what it says
Said = tuple[str, set[str], set[str]]  # the same: its keys, the sections above them


def placed(problems: Problems, words: Mapping[str, Any], file: Source | None, values: Mapping[str, Any]) -> Problems:
    """The lines, each behind the name of the file that gave its key; those of keys in `words` as they are.

    words: keys of the command line; file: of config=FILE; values: of all layers, which say what layers there are.
    """
    sources = [*([file] if file else []), *_layers(values)] if problems else []
    files = [(where, *_with_sections(_keys(content))) for where, content in sources]
    own = set(flatten(words))
    shown, rest = problems[:MOST_LINES], problems[MOST_LINES:]
    return [_placed(line, own, files) for line in shown] + rest


def _placed(line: str, own: set[str], files: list[Said]) -> str:
    found = KEY.match(line)
    if not found:
        return line
    key, unknown = found[2], found[1] is not None
    parts = key.split(".")
    bare = f"{FREE_FORM}.{parts[2]}" if parts[0] == FREE_FORM and len(parts) == 3 else None
    names = {key, *_above(key)}
    if names & own:
        return line
    for where, keys, sections in files:
        if names & keys or (unknown and key in sections):
            return f"{where}: {line}"
        if bare in keys:  # a layer's hold for all parts
            return f"{where}: {line}; for one part alone: per: [{{when: {{method: NAME}}, set: {{{bare}: VALUE}}}}]"
    return line


def _with_sections(names: Iterable[str]) -> tuple[set[str], set[str]]:
    keys = set(names)
    return keys, {section for key in keys for section in _above(key)}


def _above(key: str) -> list[str]:
    """['a', 'a.b'] for a.b.c."""
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _keys(content: Mapping[str, Any]) -> Iterator[str]:
    """Dotted names of all keys that a file gives, under whatever conditions."""
    yield from flatten({name: value for name, value in content.items() if name not in ("per", "with")})
    for entry in content.get("per", []):
        yield from flatten(entry["set"])
    for change in content.get("with", {}).values():
        yield from _keys(change)


def _layers(values: Mapping[str, Any]) -> Iterator[Source]:
    """The layer files that can be read, the strongest first: the recipe, those that it is like, methods, data set."""
    recipe, seen = values.get("recipe"), list[str]()
    while isinstance(recipe, str) and recipe not in seen:
        seen.append(recipe)
        for where, content in _layer("recipe", recipe):
            yield where, content
            recipe = content.get("like")
    for part in reversed(parts_of(values.get("method"))):
        yield from _layer("method", part)
    yield from _layer("dataset", str(values.get("dataset")))


def _layer(kind: str, name: str) -> list[Source]:
    try:
        return [(place_of(CONFIGS, layer_path(kind, name)), layer_file(kind, name))]
    except ConfigError:
        return []  # said where it is read
