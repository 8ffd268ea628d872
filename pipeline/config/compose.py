"""Layers of key=value into one validated configuration.

defaults <- dataset <- pair <- method <- recipe <- config=FILE <- command line. All problems are collected and reported
together, before anything is built.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.config.keys import ConfigError, HelpRequested, Problems, flatten, merge
from pipeline.config.layers import SELECTORS, layers_of, parts_of, read_yaml
from pipeline.nearest import hint

FREE_FORM = "method_args"
M = TypeVar("M", bound=BaseModel)
Names = Mapping[str, Callable[[str, Mapping[str, Any]], str]]


def parse_arguments(argv: list[str], aliases: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """key=value words as a nested mapping; `aliases` renames keys. Raises HelpRequested."""
    if any(word in ("-h", "--help", "help") for word in argv):
        raise HelpRequested
    given: dict[str, Any] = {}
    for word in argv:
        if not re.match(r"[A-Za-z_][\w.]*=", word):
            problems.append(f"expected key=value, got {word!r}")
            continue
        name, value = word.split("=", 1)
        try:
            given = merge(given, dotted(aliases.get(name, name), value))
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
            problems.append(f"cannot read {word!r}: {str(error).splitlines()[0]}")
    return given


def dotted(name: str, value: str) -> dict[str, Any]:
    """{'a': {'b': value}} for the key 'a.b'; the value is read as YAML."""
    nested = OmegaConf.to_container(OmegaConf.from_dotlist([f"{name}={value}"]), resolve=True)
    assert isinstance(nested, dict)
    return {str(k): v for k, v in nested.items()}


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


def explain(error: ValidationError, schema: type[BaseModel] | None, known: list[str], prefix: str = "") -> Problems:
    """One line for each thing that pydantic found, with the nearest known key for an unknown one."""
    lines = []
    for item in error.errors(include_url=False):
        where = prefix + ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {where!r}{hint(where, known)}")
        elif item["type"] == "missing":
            lines.append(f"{where}= must be given")
        elif item["type"] == "value_error":
            lines.append((f"{where}: " if where else "") + str(item["ctx"]["error"]))
        else:
            lines.append(f"{where}={json.dumps(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return lines


def validate(schema: type[M], nested: Mapping[str, Any]) -> M:
    """`nested` as an instance of `schema`, strictly typed (JSON rules: a list is a tuple, '3' is no number)."""
    try:
        return schema.model_validate_json(json.dumps(nested), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, schema, known_keys(schema))) from None


def validate_arguments(owner: type, given: Mapping[str, Any]) -> Any:
    """`method_args` as an instance of a method's frozen dataclass `owner`. Raises ConfigError."""
    fields = list(getattr(owner, "__dataclass_fields__", {}))
    known = [f"{FREE_FORM}.{name}" for name in fields]
    problems = [
        f"unknown key '{FREE_FORM}.{name}'{hint(f'{FREE_FORM}.{name}', known)} (known: {', '.join(known) or 'none'})"
        for name in given
        if name not in fields
    ]
    usable = {name: value for name, value in given.items() if name in fields}
    try:
        made: Any = TypeAdapter(owner).validate_json(json.dumps(usable), strict=True)
    except ValidationError as error:
        problems += explain(error, None, known, f"{FREE_FORM}.")
    if problems:
        raise ConfigError(problems)
    return made


def argument_problems(method: str, given: Mapping[str, Any], arguments_of: Callable[[str], type]) -> Problems:
    """What is wrong with `method_args`; those of a combination lie under their parts' names."""
    parts = parts_of(method)
    problems: Problems = []
    if len(parts) > 1:
        names = ", ".join(f"{FREE_FORM}.{part}.*" for part in parts)
        problems = [f"unknown key '{FREE_FORM}.{key}' (known: {names})" for key in given if key not in parts]
    for part in parts:
        try:
            validate_arguments(arguments_of(part), given if len(parts) == 1 else given.get(part, {}))
        except ConfigError as error:
            problems += error.problems
    return problems


def canonical_names(nested: dict[str, Any], names: Names, problems: Problems) -> dict[str, Any]:
    """Names that stand for parts replaced by their registered spelling; unknown ones become problems."""
    flat = flatten(nested)
    fixed: list[dict[str, Any]] = []
    for name, canonical in names.items():
        if flat.get(name) is None:
            continue
        try:
            fixed.append(dotted(name, json.dumps(canonical(str(flat[name]), flat))))
        except LookupError as error:
            problems.append(str(error.args[0]))
    return merge(nested, *fixed)


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
    given = parse_arguments(argv, aliases, problems)
    if "config" in given:
        given = merge(read_yaml(Path(str(given.pop("config")))), given)
    uses = tuple(name for name in SELECTORS if name in schema.model_fields)
    unknown_is_reported_by_its_layer: Problems = []
    given = canonical_names(given, {k: names[k] for k in uses if k in names}, unknown_is_reported_by_its_layer)
    own = {k: v for k, v in given.items() if k not in ("pair", "recipe")}  # their layers set the canonical spelling
    layers = layers_of(given, problems, uses, names.get("student.model"))
    below = [{k: v for k, v in layer.items() if k in schema.model_fields} for layer in layers]
    nested = canonical_names(merge(*below, own), names, problems)
    if arguments_of is not None and not problems:
        problems += argument_problems(nested["method"], nested.get(FREE_FORM, {}), arguments_of)
    made = None
    try:
        made = validate(schema, nested)
    except ConfigError as error:
        problems += error.problems
    if problems or made is None:
        raise ConfigError(problems)
    return made
