"""key=value words, and files of keys, as nested mappings that are well shaped: known keys, sections as mappings."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.config.by_type import ANY, NULL, NULLS, Kind, kind_at, kinds_of, typed
from pipeline.config.keys import ConfigError, HelpRequested, Problems, flatten, merge, nested
from pipeline.utils.plain_yaml import Plain, YamlFault, parse, read, shown
from pipeline.utils.suggest import hint_key, short

WORD = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'", re.DOTALL)
DEEPEST = 16  # parts of a dotted key
MOST_HINTS = 20  # nearest names that are looked for: each costs a comparison with all keys


def parse_arguments(
    argv: list[str], aliases: Mapping[str, str], problems: Problems, schema: type[BaseModel] | None = None
) -> dict[str, Any]:
    """key=value words as a nested mapping; `aliases` renames keys. Raises HelpRequested.

    schema: whose keys they are; a key that takes text then gets its word's text as it is. Without it values are what
    YAML takes them for.
    """
    if any(word in ("-h", "--help", "help") for word in argv):
        raise HelpRequested
    given: dict[str, Any] = {}
    for word in argv:
        found = WORD.fullmatch(word)
        if not found:
            problems.append(f"expected key=value, got {short(word)}")
            continue
        name, value = aliases.get(found[1], found[1]), found[2]
        if name.count(".") >= DEEPEST:
            problems.append(f"unknown key {short(name)}")
            continue
        try:
            given = merge(given, nested(name, read_word(kind_at(schema, name), value)))
        except YamlFault as error:
            problems.append(f"cannot read {short(word)}: {error}")
    return given


def read_word(kind: Kind, value: str) -> Any:
    """The value of one word. Raises YamlFault.

    Text is taken as it is; in quotes of its own ('"null"') it is what they hold. Of all other keys a value in brackets
    or braces is read as YAML, and anything else is one scalar, `#`, `&` and `${` included.
    """
    if QUOTED.fullmatch(value):
        return typed(kind, unquoted(value), NULL)
    if kind.texts and not (value.startswith("[") and not kind.text):
        return typed(kind, Plain(value), NULL)
    if not value.strip():
        raise YamlFault("it has no value (null takes a key's value away)")
    return typed(kind, parse(value) if value.lstrip()[0] in "[{" else Plain(value.strip()), NULL)


def spelled(name: str, value: str) -> dict[str, str]:
    """The dotted keys that the word `name=value` gives, each as text: without quotes of its own, braces taken apart.

    What cannot be read stays as it is: whoever composes the keys says why.
    """
    if QUOTED.fullmatch(value):
        return {name: unquoted(value)}
    try:
        content = parse(value) if value.lstrip().startswith("{") else None
    except YamlFault:
        content = None
    if not isinstance(content, dict):
        return {name: value}
    return {key: str(one) for key, one in flatten(nested(name, content)).items()}


def keys_and_paths(argv: Sequence[str]) -> tuple[list[str], list[Path]]:
    """(key=value words and a call for help, the other words as paths), of a command that is given folders."""
    keys = [word for word in argv if WORD.match(word) or word in ("-h", "--help", "help")]
    return keys, [Path(word).expanduser() for word in argv if word not in keys]


def unquoted(value: str) -> str:
    """What stands between the quotes, as JSON or YAML have it."""
    try:
        return str(json.loads(value))
    except ValueError:
        pass
    try:
        return str(parse(value))
    except YamlFault:
        return value


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, unquoted scalars as Plain. Raises ConfigError that names the file."""
    try:
        content = read(path)
    except YamlFault as error:
        raise ConfigError([str(error)]) from None
    if isinstance(content, Plain) and not content:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{shown(path)} does not hold a mapping of keys"])
    return content


def spread(content: Mapping[str, Any], aliases: Mapping[str, str], where: str, problems: Problems) -> dict[str, Any]:
    """`content` with dotted keys and aliases as the nested ones they stand for. where: the file, for what is wrong."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        full = aliases.get(name, name)
        if full.count(".") >= DEEPEST:
            problems.append(f"{where}: unknown key {short(full)}")
            continue
        below = spread(value, {}, where, problems) if isinstance(value, Mapping) else value
        _put(found, nested(full, below), where, problems)
    return found


def _put(found: dict[str, Any], more: Mapping[str, Any], where: str, problems: Problems, prefix: str = "") -> None:
    """Adds `more` to `found`; a key that both have is a problem, unless it is a section in both."""
    for name, value in more.items():
        there = found.setdefault(name, value)
        if isinstance(there, dict) and isinstance(value, dict) and there is not value:
            _put(there, value, where, problems, f"{prefix}{name}.")
        elif there is not value:
            problems.append(f"{where}: {short(prefix + name)} is given twice")


def known_keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all keys of a schema."""
    keys: list[str] = []
    for name, field in schema.model_fields.items():
        sub = section_of(field.annotation)
        keys += known_keys(sub, f"{prefix}{name}.") if sub else [prefix + name]
    return keys


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class behind a field's annotation, None for a plain field."""
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def well_shaped(
    schema: type[BaseModel],
    content: Mapping[str, Any],
    problems: Problems,
    *,
    where: str = "",
    known: list[str] | None = None,
    nulls: tuple[str, ...] = NULLS,
) -> dict[str, Any]:
    """`content` typed, without unknown keys, sections that are no mappings and keys below plain ones, which become
    problems. where: the file they stand in, "" for the command line; known: what is suggested."""
    known = known_keys(schema) if known is None else known
    found: Problems = []
    shaped = _shaped(Kind(section=schema), content, "", known, found)
    problems += [f"{where}: {problem}" if where else problem for problem in found]
    made: dict[str, Any] = typed(Kind(section=schema), shaped, nulls)
    return made


def _shaped(
    kind: Kind, content: Mapping[str, Any], prefix: str, known: list[str], problems: Problems
) -> dict[str, Any]:
    if kind.section is None:  # a mapping with keys of its own
        return dict(content)
    fields, kept = kinds_of(kind.section), {}
    for name, value in content.items():
        full, field = prefix + name, fields.get(name, ANY)
        if name not in fields:
            besides = [one for one in known if "." not in one and one not in fields]
            names = [*_sections(known, prefix), *besides] if isinstance(value, Mapping) else known
            near = hint_key(full, names or known) if len(problems) < MOST_HINTS else ""
            problems.append(f"unknown key {short(full)}{near}")
        elif isinstance(value, Mapping) and (field.section or field.values):
            kept[name] = _shaped(field, value, f"{full}.", known, problems)
        elif isinstance(value, Mapping) and field != ANY:
            below = next(iter(value), "")
            problems.append(f"unknown key {short(f'{full}.{below}')}: {full}= takes one value, not keys of its own")
        elif isinstance(value, Plain) and not value and (field.section or field.values):
            continue  # a heading with nothing below it
        elif (field.section or field.values) and not (field.none and typed(field, value) is None):
            start = next((one for one in known if one.startswith(f"{full}.")), f"{full}.KEY")
            problems.append(f"{full}={_text(value)}: it is a section of keys, such as {start}=")
        else:
            kept[name] = value
    return kept


def _sections(known: list[str], prefix: str) -> list[str]:
    """Names of sections directly below `prefix`."""
    below = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
    return list(dict.fromkeys(prefix + name.partition(".")[0] for name in below if "." in name))


def _text(value: Any) -> str:
    try:
        return shown(json.dumps(typed(ANY, value), ensure_ascii=False), 100)
    except (TypeError, ValueError):
        return shown(value, 100)
