"""What a written value is, by the type of its key: the one place where text is told from numbers and words.

A key that takes text gets what was written, character by character. A key of fixed words takes them as they are (YAML
reads off and no as truth values), and a number is read where a number is asked for.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pipeline.config.base import Home, at_home
from pipeline.utils.plain_yaml import Plain, scalar

NULL = ("null",)  # on a command line; files have YAML's other spellings too
NULLS = ("null", "Null", "NULL", "~")


@dataclass(frozen=True)
class Kind:
    """What a key takes. section: its class of keys; words: fixed ones; item, items: of a list, or by position; values:
    of a mapping; none: null as well; number: an int or a float."""

    section: type | None = None
    text: bool = False
    path: bool = False
    none: bool = False
    truth: bool = False
    number: bool = False
    words: frozenset[str] = frozenset()
    item: "Kind | None" = None
    items: "tuple[Kind, ...]" = ()
    values: "Kind | None" = None

    @property
    def texts(self) -> bool:
        """Whether it is text, or a list of texts, which may be written as one."""
        return self.text or (self.item is not None and self.item.text)


ANY = Kind()


def kind_of(annotation: Any, metadata: Iterable[Any] = ()) -> Kind:
    """The Kind behind an annotation of a field."""
    path = any(isinstance(mark, Home) for mark in metadata)
    origin, given = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(given[0], [*given[1:], *metadata])
    if origin in (Union, types.UnionType):
        return _union([kind_of(one, metadata) for one in given])
    if origin is Literal:
        return Kind(words=frozenset(word for word in given if isinstance(word, str)))
    if origin is tuple and given[1:] != (...,):
        return Kind(items=tuple(map(kind_of, given)))
    if origin in (tuple, list):
        return Kind(item=kind_of(given[0]))
    if origin is dict:
        return Kind(values=kind_of(given[1]))
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return Kind(section=annotation)
    return Kind(
        text=annotation is str,
        path=path,
        none=annotation is type(None),
        truth=annotation is bool,
        number=annotation in (int, float),
    )


def _union(kinds: list[Kind]) -> Kind:
    found: dict[str, Any] = {}
    for kind in kinds:
        for field in dataclasses.fields(Kind):
            value = getattr(kind, field.name)
            found[field.name] = found.get(field.name) or value
    return Kind(**found)


@functools.cache
def kinds_of(section: type) -> Mapping[str, Kind]:
    """The Kind of each key of a section, or of a dataclass."""
    if issubclass(section, BaseModel):
        return {name: kind_of(field.annotation, field.metadata) for name, field in section.model_fields.items()}
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: kind_of(hints[field.name]) for field in dataclasses.fields(section)}  # type: ignore[arg-type]


def kind_at(section: type | None, name: str) -> Kind:
    """The Kind of the dotted key `name`; ANY for unknown ones."""
    kind = Kind(section=section)
    for part in name.split("."):
        below = kinds_of(kind.section) if kind.section else {}
        kind = below.get(part, kind.values or ANY)
    return kind


def typed(kind: Kind, node: Any, nulls: tuple[str, ...] = NULLS) -> Any:
    """`node` (of `plain_yaml`, or plain values) as values of `kind`; what does not fit stays for the validation."""
    if isinstance(node, Mapping):
        fields = kinds_of(kind.section) if kind.section else {}
        other = kind.values or ANY
        return {name: typed(fields.get(name, other), value, nulls) for name, value in node.items()}
    if isinstance(node, list | tuple):
        kinds = [*kind.items[: len(node)], *[kind.item or ANY] * (len(node) - len(kind.items))]
        return [typed(one, value, nulls) for one, value in zip(kinds, node, strict=True)]
    if kind.texts:
        return _as_text(kind, node, nulls)
    if isinstance(node, str) and str(node) in kind.words:
        return str(node)
    value = scalar(str(node)) if isinstance(node, Plain) else node
    if isinstance(value, bool) and kind.words and not kind.truth:
        word = "on" if value else "off"
        return word if word in kind.words else value
    return value


def _as_text(kind: Kind, node: Any, nulls: tuple[str, ...]) -> Any:
    if isinstance(node, Plain) and kind.none and node in nulls:
        return None
    if isinstance(node, int | float) and not isinstance(node, bool):
        return str(node)
    if not isinstance(node, str):
        return node
    return at_home(str(node)) if kind.path else str(node)


def typed_keys(schema: type, node: Any, aliases: Mapping[str, str]) -> Any:
    """Keys of `schema`, dotted or nested, with a value or a list of values each (as in a sweep), by their types."""
    if isinstance(node, list):
        return [typed_keys(schema, one, aliases) for one in node]
    if not isinstance(node, Mapping):
        return typed(ANY, node)
    found = {}
    for name, value in node.items():
        kind = kind_at(schema, aliases.get(name, name))
        several = isinstance(value, list) and not (kind.items or kind.item or kind.values)
        found[name] = [_one(schema, kind, one, aliases) for one in value] if several else typed(kind, value)
    return found


def _one(schema: type, kind: Kind, value: Any, aliases: Mapping[str, str]) -> Any:
    coupled = isinstance(value, Mapping) and kind.section is None
    return typed_keys(schema, value, aliases) if coupled else typed(kind, value)
