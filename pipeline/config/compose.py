"""Layers of key=value into one validated configuration.

defaults <- dataset <- pair <- method <- recipe <- config=FILE <- command line. All problems are collected and reported
together, before anything is built.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.config.base import at_home
from pipeline.config.by_type import ANY, NULL, Kind, kind_at, typed
from pipeline.config.keys import ConfigError, Problems, flatten, merge, nested
from pipeline.config.layers import SELECTORS, layers_of, parts_of
from pipeline.config.words import known_keys, parse_arguments, read_tree, section_of, spread, well_shaped
from pipeline.nearest import hint, short
from pipeline.plain_yaml import shown

__all__ = ["compose", "known_keys", "parse_arguments", "section_of", "validate", "validate_arguments"]
FREE_FORM = "method_args"
LARGEST, LARGEST_COUNT, SMALLEST = 1e9, 2**20, 1e-12  # of a method's numbers; beyond, float32 and memory end
M = TypeVar("M", bound=BaseModel)
Names = Mapping[str, Callable[[str, Mapping[str, Any]], str]]


def explain(error: ValidationError, schema: type[BaseModel] | None, known: list[str], prefix: str = "") -> Problems:
    """One line for each thing that pydantic found, with the nearest known key for an unknown one."""
    lines: Problems = []
    for item in error.errors(include_url=False):
        where = prefix + _place(item["loc"], schema)
        if item["type"] == "extra_forbidden":
            near = hint(where, known) if len(lines) < 20 else ""
            lines.append(f"unknown key {short(where)}{near}")
        elif item["type"] == "missing":
            lines.append(f"{where}= must be given")
        elif item["type"] == "value_error":
            lines.append((f"{where}: " if where else "") + str(item["ctx"]["error"]))
        else:
            value = shown(json.dumps(item["input"], default=str), 100)
            lines.append(f"{where}={value}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return lines


def _place(loc: tuple[int | str, ...], schema: type[BaseModel] | None) -> str:
    """The key that pydantic means: in a plain key only positions count, not the names of types."""
    for i in range(1, len(loc) + 1):
        kind = kind_at(schema, ".".join(map(str, loc[:i])))
        if kind.section is None and kind.values is None and kind != ANY:
            loc = (*loc[:i], *(part for part in loc[i:] if isinstance(part, int)))
            break
    return ".".join(map(str, loc))


def validate(schema: type[M], values: Mapping[str, Any]) -> M:
    """`values`, nested, as an instance of `schema`, strictly typed (JSON rules: a list is a tuple, '3' is no number).

    Raises ConfigError.
    """
    try:
        text = json.dumps(typed(Kind(section=schema), values), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError([_unreadable(values, error)]) from None
    try:
        return schema.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, schema, known_keys(schema))) from None


def _unreadable(values: Mapping[str, Any], error: Exception) -> str:
    """The line for values that no JSON can hold, with the first key that has one."""
    if isinstance(error, RecursionError):
        return "the keys are nested too deeply, or circular"
    for name, value in flatten(values).items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeError:
            return f"{shown(name)}: {short(value)} is no text in UTF-8"
        except (TypeError, ValueError, RecursionError) as why:
            return f"{shown(name)}: {short(value)} is neither text nor a number ({shown(why)})"
    return f"a value cannot be read: {shown(error)}"


def validate_arguments(owner: type, given: Any) -> Any:
    """`method_args` as an instance of a method's frozen dataclass `owner`. Raises ConfigError."""
    if not isinstance(given, Mapping):
        raise ConfigError([f"{FREE_FORM}={shown(given)}: it is a section of keys, such as {FREE_FORM}.T="])
    fields = list(getattr(owner, "__dataclass_fields__", {}))
    known = [f"{FREE_FORM}.{name}" for name in fields]
    problems = [
        f"unknown key {short(f'{FREE_FORM}.{name}')}{hint(f'{FREE_FORM}.{name}', known)} "
        f"(known: {', '.join(known) or 'none'})"
        for name in [name for name in given if name not in fields][:20]
    ]
    usable = {name: value for name, value in given.items() if name in fields}
    problems += [line for name, value in usable.items() for line in _beyond(f"{FREE_FORM}.{name}", value)]
    made: Any = None
    try:
        text = json.dumps(typed(Kind(section=owner), usable), ensure_ascii=False).encode()
        made = _adapter(owner).validate_json(text, strict=True)
    except ValidationError as error:
        problems += explain(error, None, known, f"{FREE_FORM}.")
    except (TypeError, ValueError) as error:
        problems.append(_unreadable({FREE_FORM: usable}, error))
    if problems:
        raise ConfigError(problems)
    return made


@functools.cache
def _adapter(owner: type) -> TypeAdapter[Any]:
    """Kept: making one costs 5 ms."""
    return TypeAdapter(owner)


def _beyond(name: str, value: Any) -> Problems:
    """The line for a number of a method's that no computer would be happy with."""
    if isinstance(value, list):
        return [line for one in value for line in _beyond(name, one)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{name}={value}: input should be a finite number"]
    most = LARGEST if isinstance(value, float) else LARGEST_COUNT
    if abs(value) > most:
        return [f"{name}={short(value)[1:-1]}: input should be at most {most:g}"]
    return [f"{name}={value}: input should be 0, or at least {SMALLEST:g}"] if 0 < abs(value) < SMALLEST else []


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
    aliases: Mapping[str, str],
    names: Names,
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
    layers = layers_of(given, problems, uses, names.get("student.model"), arguments_of)
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
