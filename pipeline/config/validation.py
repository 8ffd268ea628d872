"""Values against their types and limits, and what is said of those that do not fit."""

import functools
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.config.by_type import ANY, Kind, kind_at, typed
from pipeline.config.keys import ConfigError, Problems, flatten, nested
from pipeline.config.words import MOST_HINTS, known_keys
from pipeline.utils.plain_yaml import shown
from pipeline.utils.suggest import hint, nearest, short

FREE_FORM, VARIANT = "method_args", "variant"
LARGEST, LARGEST_COUNT, SMALLEST = 1e9, 2**20, 1e-12  # of a method's numbers; beyond, float32 and memory end
M = TypeVar("M", bound=BaseModel)


def explain(error: ValidationError, schema: type[BaseModel] | None, known: list[str], prefix: str = "") -> Problems:
    """One line for each thing that pydantic found, with the nearest known key for an unknown one."""
    lines: Problems = []
    for item in error.errors(include_url=False):
        lines.append(_line(item, prefix + _place(item["loc"], schema), known if len(lines) < MOST_HINTS else []))
    return lines


def _line(item: Mapping[str, Any], where: str, known: list[str]) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown key {short(where)}{hint(where, known)}"
    if item["type"] == "missing":
        return f"{where}= must be given"
    if item["type"] == "value_error":
        return (f"{where}: " if where else "") + str(item["ctx"]["error"])
    value = shown(json.dumps(item["input"], default=str), 100)
    return f"{where}={value}: {item['msg'][0].lower()}{item['msg'][1:]}"


def value_problems(schema: type[BaseModel], values: Mapping[str, Any]) -> Problems:
    """What is wrong with single values among some keys of `schema`; how keys go together is not asked."""
    try:
        schema.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        own = [item for item in found if item["loc"] and not kind_at(schema, ".".join(map(str, item["loc"]))).section]
        return [_line(e, _place(e["loc"], schema), []) for e in own if e["type"] != "missing" or len(e["loc"]) > 1]
    except (TypeError, ValueError) as error:
        return [_unreadable(values, error)]
    return []


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


def validate_arguments(owner: type, given: Any, prefix: str = FREE_FORM) -> Any:
    """`method_args` as an instance of a method's frozen dataclass `owner`. prefix: `method_args.PART` of a
    combination's part. Raises ConfigError."""
    if not isinstance(given, Mapping):
        raise ConfigError([f"{prefix}={shown(given)}: it is a section of keys, such as {prefix}.T="])
    fields = list(getattr(owner, "__dataclass_fields__", {}))
    known = [f"{prefix}.{name}" for name in fields]
    problems = [_no_argument(name, prefix, fields) for name in [name for name in given if name not in fields][:20]]
    usable = {name: value for name, value in given.items() if name in fields}
    problems += [line for name, value in usable.items() for line in _beyond(f"{prefix}.{name}", value)]
    made: Any = None
    try:
        text = json.dumps(typed(Kind(section=owner), usable), ensure_ascii=False).encode()
        made = _adapter(owner).validate_json(text, strict=True)
    except ValidationError as error:
        problems += explain(error, None, known, f"{prefix}.")
    except (TypeError, ValueError) as error:
        problems.append(_unreadable(nested(prefix, usable), error))
    if problems:
        raise ConfigError(problems)
    return made


def _no_argument(name: str, prefix: str, fields: list[str]) -> str:
    full = f"{prefix}.{name}"
    if name == VARIANT and prefix != FREE_FORM:
        return f"unknown key {short(full)}: {VARIANT}= holds for every part; one part's cannot be chosen alone"
    fields_by_word = {field.lower(): field for field in fields}
    close = nearest(str(name), [*fields_by_word])  # without the prefix, which all have: margin is not like T
    meant = VARIANT if name == VARIANT else f"{prefix}.{fields_by_word[close]}" if close else None
    near = f"; did you mean {meant!r}?" if meant else ""
    known = ", ".join(f"{prefix}.{field}" for field in fields)
    return f"unknown key {short(full)}{near} (known: {known or 'none'})"


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
