"""Layers of key=value into one validated configuration.

defaults <- dataset <- pair <- method <- recipe <- config=FILE <- command line. All problems are collected and reported
together, before anything is built.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel

from pipeline.config.base import at_home
from pipeline.config.by_type import NULL
from pipeline.config.keys import ConfigError, Problems, flatten, merge, nested
from pipeline.config.layers import SELECTORS, layers_of, parts_of
from pipeline.config.validation import FREE_FORM, validate, validate_arguments
from pipeline.config.words import known_keys, parse_arguments, read_tree, spread, well_shaped
from pipeline.utils.plain_yaml import shown
from pipeline.utils.suggest import short

M = TypeVar("M", bound=BaseModel)
Names = Mapping[str, Callable[[str, Mapping[str, Any]], str]]
NONE: Mapping[str, Any] = MappingProxyType({})


def argument_problems(method: str, given: Any, arguments_of: Callable[[str], type]) -> Problems:
    """What is wrong with `method_args`; those of a combination lie under their parts' names."""
    parts = parts_of(method)
    problems: Problems = [f"method {part} stands twice in {short(method)}" for part in parts if parts.count(part) > 1]
    if len(parts) > 1 and isinstance(given, Mapping):
        names = ", ".join(f"{FREE_FORM}.{part}.*" for part in parts)
        others = [key for key in given if key not in parts][:20]
        problems += [f"unknown key {short(f'{FREE_FORM}.{key}')} (known: {names})" for key in others]
    for part in parts:
        try:
            own = given.get(part, {}) if len(parts) > 1 and isinstance(given, Mapping) else given
            validate_arguments(arguments_of(part), own)
        except ConfigError as error:
            problems += error.problems
    return problems


def canonical_names(values: dict[str, Any], names: Names, problems: Problems) -> dict[str, Any]:
    """Names that stand for parts replaced by their registered spelling; unknown ones become problems."""
    flat = flatten(values)
    fixed: list[dict[str, Any]] = []
    for name, canonical in names.items():
        if not isinstance(flat.get(name), str):
            continue
        try:
            fixed.append(nested(name, canonical(flat[name], flat)))
        except LookupError as error:
            problems.append(str(error.args[0]))
    return merge(values, *fixed)


def read_given(
    schema: type[BaseModel], argv: list[str], aliases: Mapping[str, str], problems: Problems
) -> dict[str, Any]:
    """The user's own keys: config=FILE, below the command line. Raises HelpRequested, or ConfigError for the file."""
    known = [*known_keys(schema), *aliases]
    words = parse_arguments([w for w in argv if not w.startswith("config=")], aliases, problems, schema)
    given = well_shaped(schema, words, problems, known=[*known, "config"], nulls=NULL)
    files = [word.partition("=")[2] for word in argv if word.startswith("config=")]
    if not files:
        return given
    if not files[-1]:
        raise ConfigError([*problems, "config= names no file"])
    where = shown(files[-1])
    try:
        content = spread(read_tree(Path(at_home(files[-1]))), aliases, where, problems)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    return merge(well_shaped(schema, content, problems, where=where, known=known), given)


def compose(
    schema: type[M],
    argv: list[str],
    *,
    aliases: Mapping[str, str] = NONE,
    names: Names = NONE,
    arguments_of: Callable[[str], type] | None = None,
) -> M:
    """The configuration that `argv` asks for.

    aliases: other spellings of keys; names: for each key that names a part, the function of its value and of all keys
    that gives its registered spelling (or raises LookupError); arguments_of: the dataclass of a method's
    hyper-parameters, by its name. Raises HelpRequested, or ConfigError with all problems at once.
    """
    problems: Problems = []
    given = read_given(schema, argv, aliases, problems)
    uses = tuple(name for name in SELECTORS if name in schema.model_fields)
    unknown_is_reported_by_its_layer: Problems = []
    given = canonical_names(given, {k: names[k] for k in uses if k in names}, unknown_is_reported_by_its_layer)
    own = {k: v for k, v in given.items() if k not in ("pair", "recipe")}  # their layers set the canonical spelling
    layers = layers_of(given, problems, uses, names, arguments_of)
    below = [{k: v for k, v in layer.items() if k in schema.model_fields} for layer in layers]
    values = canonical_names(merge(*below, own), names, problems)
    if arguments_of is not None and not problems:
        problems += argument_problems(values["method"], values.get(FREE_FORM, {}), arguments_of)
    made = None
    try:
        made = validate(schema, values)
    except ConfigError as error:
        problems += error.problems
    if problems or made is None:
        raise ConfigError(problems)
    return made
