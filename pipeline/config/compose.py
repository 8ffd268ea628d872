"""Layers of key=value into one validated configuration.

defaults <- dataset <- pair <- method <- recipe <- config=FILE <- command line. All problems are collected and reported
together, before anything is built.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from pipeline.config.base import at_home
from pipeline.config.by_type import NULL, kinds_of
from pipeline.config.keys import ConfigError, Problems, flatten, merge, nested
from pipeline.config.layers import SELECTORS, layers_of, parts_of
from pipeline.config.origin import Source, placed
from pipeline.config.validation import FREE_FORM, VARIANT, validate, validate_arguments
from pipeline.config.words import known_keys, parse_arguments, read_tree, spread, well_shaped
from pipeline.utils.plain_yaml import shown
from pipeline.utils.suggest import hint_key, short

M = TypeVar("M", bound=BaseModel)
Names = Mapping[str, Callable[[str, Mapping[str, Any]], str]]
NONE: Mapping[str, Any] = MappingProxyType({})


class Given(NamedTuple):
    """The user's own keys: values, and whence: words of the command line, config=FILE."""

    values: dict[str, Any]
    words: dict[str, Any]
    file: Source | None


def arguments_at(method: str, arguments_of: Callable[[str], type]) -> dict[str, type]:
    """{dotted prefix of its keys: dataclass of each part of a method}; {} where a part is unknown."""
    parts = parts_of(method)
    try:
        return {f"{FREE_FORM}.{part}" if len(parts) > 1 else FREE_FORM: arguments_of(part) for part in parts}
    except LookupError:
        return {}  # said of the method itself


def argument_keys(method: str, arguments_of: Callable[[str], type]) -> list[str]:
    """Dotted names of all hyper-parameters of a method, or of a combination's parts."""
    owners = arguments_at(method, arguments_of)
    return [f"{prefix}.{name}" for prefix, owner in owners.items() for name in kinds_of(owner)]


def argument_problems(method: str, given: Any, arguments_of: Callable[[str], type]) -> Problems:
    """What is wrong with `method_args`; those of a combination lie under their parts' names."""
    parts, owners = parts_of(method), arguments_at(method, arguments_of)
    if not owners:
        return []
    problems: Problems = [f"method {part} stands twice in {short(method)}" for part in parts if parts.count(part) > 1]
    if len(parts) > 1 and isinstance(given, Mapping):
        names, known = ", ".join(f"{prefix}.*" for prefix in owners), argument_keys(method, arguments_of)
        problems += [
            f"unknown key {short(f'{FREE_FORM}.{key}')}{hint_key(str(key), known)} "
            f"(known: {names}; of {short(method)} write {FREE_FORM}.PART.KEY)"
            for key in [key for key in given if key not in parts][:20]
        ]
    for prefix, owner in owners.items():
        try:
            part = prefix.rpartition(".")[2]
            own = given.get(part, {}) if len(parts) > 1 and isinstance(given, Mapping) else given
            validate_arguments(owner, own, prefix)
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
    schema: type[BaseModel],
    argv: list[str],
    aliases: Mapping[str, str],
    problems: Problems,
    arguments: Callable[[str], list[str]],
) -> Given:
    """The user's own keys: config=FILE, below the command line. Raises HelpRequested, or ConfigError for the file.

    arguments: the dotted hyper-parameters of a method, which are suggested too.
    """
    words = parse_arguments([w for w in argv if not w.startswith("config=")], aliases, problems, schema)
    files = [word.partition("=")[2] for word in argv if word.startswith("config=")]
    where, content, faults = shown(files[-1]) if files else "", dict[str, Any](), list[str]()
    if files and not where:
        faults = ["config= names no file"]
    elif files:
        try:
            content = spread(read_tree(Path(at_home(files[-1]))), aliases, where, problems)
        except ConfigError as error:
            faults = error.problems
    method = words.get("method", content.get("method"))
    known = [*known_keys(schema), *aliases, *(arguments(method) if isinstance(method, str) else [])]
    own = well_shaped(schema, words, problems, known=[*known, "config"], nulls=NULL)
    if faults:
        raise ConfigError([*problems, *faults])
    if not files:
        return Given(own, own, None)
    shaped = well_shaped(schema, content, problems, where=where, known=known)
    return Given(merge(shaped, own), own, (where, shaped))


def compose(
    schema: type[M],
    argv: list[str],
    *,
    aliases: Mapping[str, str] = NONE,
    names: Names = NONE,
    arguments_of: Callable[[str], type] | None = None,
    variant_problems: Callable[[str, str], Problems] | None = None,
) -> M:
    """The configuration that `argv` asks for.

    aliases: other spellings of keys; names: for each key that names a part, the function of its value and of all keys
    that gives its registered spelling (or raises LookupError); arguments_of: the dataclass of a method's
    hyper-parameters, by its name; variant_problems: why a method has no such variant, which is asked beside other
    problems (alone it is said where the method is made, or `help`). Raises HelpRequested, or ConfigError with all
    problems at once.
    """
    problems: Problems = []

    def arguments(method: str) -> list[str]:
        with contextlib.suppress(LookupError):
            method = names["method"](method, {}) if "method" in names else method
        return argument_keys(method, arguments_of) if arguments_of is not None else []

    found = read_given(schema, argv, aliases, problems, arguments)
    uses = tuple(name for name in SELECTORS if name in schema.model_fields)
    unknown_is_reported_by_its_layer: Problems = []
    given = canonical_names(found.values, {k: names[k] for k in uses if k in names}, unknown_is_reported_by_its_layer)
    own = {k: v for k, v in given.items() if k not in ("pair", "recipe")}  # their layers set the canonical spelling
    before = len(problems)
    layers = layers_of(given, problems, uses, names, arguments_of)
    sound = len(problems) == before  # else what their files say of hyper-parameters is reported already, or lacks
    below = [{k: v for k, v in layer.items() if k in schema.model_fields} for layer in layers]
    values = canonical_names(merge(*below, own), names, problems)
    wrong: Problems = []
    method, variant = values.get("method"), values.get(VARIANT)
    if arguments_of is not None and isinstance(method, str):
        wrong += argument_problems(method, (values if sound else own).get(FREE_FORM, {}), arguments_of)
    made = None
    try:
        made = validate(schema, values)
    except ConfigError as error:
        wrong += error.problems
    if variant_problems is not None and (problems or wrong) and isinstance(method, str) and isinstance(variant, str):
        wrong += variant_problems(method, variant) if variant != "help" else []
    problems += placed(wrong, found.words, found.file, values)
    if problems or made is None:
        raise ConfigError(problems)
    return made
