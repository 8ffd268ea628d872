"""What keys affect, asked of the schema: `key` says it where each is declared (see base.py)."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.base import Affects
from pipeline.config.keys import merge, nested
from pipeline.config.words import section_of


@functools.cache
def fields_of(schema: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Every key of a schema, dotted, in the order of declaration."""
    found: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        section = section_of(field.annotation)
        below = {} if section is None else {f"{name}.{key}": one for key, one in fields_of(section).items()}
        found |= {name: field} if section is None else below
    return found


def mark(field: FieldInfo) -> Mapping[str, Any]:
    """What `key` was told of a field: affects, in_fingerprint, and before where it is one that came later."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict), "a key is declared by key(), which says what it affects"
    return extra


def keys_that_affect(schema: type[BaseModel], *kinds: Affects) -> tuple[str, ...]:
    """Dotted names of the keys of these kinds."""
    return tuple(name for name, field in fields_of(schema).items() if mark(field)["affects"] in kinds)


@functools.cache
def in_fingerprint(schema: type[BaseModel]) -> tuple[str, ...]:
    """Dotted names of the keys that tell one run from another; with other values of the rest it is the same run."""
    return tuple(name for name, field in fields_of(schema).items() if mark(field)["in_fingerprint"])


@functools.cache
def before(schema: type[BaseModel]) -> Mapping[str, Any]:
    """Keys that came later, dotted, and what runs did that do not know them."""
    return {name: mark(field)["before"] for name, field in fields_of(schema).items() if "before" in mark(field)}


def without_later(schema: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, nested, without keys that came later and have their default: the same hashes as before they came."""
    left: dict[str, Any] = {}
    for name, value in values.items():
        field = schema.model_fields[name]
        section = section_of(field.annotation)
        if section is not None:
            left[name] = without_later(section, value)
        elif "before" not in mark(field) or value != field.default:
            left[name] = value
    return left


def dumped(section: BaseModel, keys: Iterable[str]) -> dict[str, Any]:
    """The values of these dotted keys, nested, as JSON gives them back."""
    return section.model_dump(mode="json", include=_tree(tuple(keys)))


@functools.cache
def _tree(keys: tuple[str, ...]) -> Any:
    return merge(*(nested(name, True) for name in keys))
