"""YAML as data of a limited size, in which text stays text. A leaf that anything may import.

A scalar without quotes is kept as it is written (Plain) until somebody says what it is: 007 is a name to one key and a
number to another. Nothing is constructed from tags, aliases cannot grow, and a number is decimal (010 is 10).
"""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 4 * 2**20
MOST_VALUES = 200_000  # with those that aliases repeat
DEEPEST = 32
DIGITS = 4000  # Python reads no longer integers

Node = Any  # dict[str, Node], list[Node], Plain, or str for a quoted scalar
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = {f"tag:yaml.org,2002:{kind}": kind for kind in ("str", "seq", "map")} | {"!": "str"}
_NULLS = {"", "~", "null", "Null", "NULL"}
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_BOOLS = {form: value for word, value in _WORDS.items() for form in (word, word.title(), word.upper())}
_INTEGER = re.compile(r"[-+]?\d+(?:_\d+)*", re.ASCII)
_BASED = re.compile(r"[-+]?0(?:x[0-9a-fA-F]+|o[0-7]+|b[01]+)")
_FLOAT = re.compile(r"[-+]?(?:\d+(?:_\d+)*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?", re.ASCII)
_NO_NAME = re.compile(r' in "<(?:unicode|byte) string>",')
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class YamlFault(ValueError):
    """What is wrong with a text, in one line."""


class Plain(str):
    """A scalar without quotes, as it is written."""

    __slots__ = ()


def scalar(text: str) -> Any:
    """What a scalar without quotes means where nothing else is known: null, a truth value, a number, or its text."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) > DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return float(text.replace(".", "", 1)) if _SPECIAL.fullmatch(text) else text


def resolve(node: Node) -> Any:
    """`node` with each scalar as what it means (see `scalar`)."""
    if isinstance(node, Plain):
        return scalar(str(node))
    if isinstance(node, dict):
        return {key: resolve(value) for key, value in node.items()}
    return [resolve(value) for value in node] if isinstance(node, list) else node


class _Builder:
    """Nodes out of a stream of events, with what anchors hold."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.anchors: dict[str, tuple[Node, int, int]] = {}  # node, values, levels
        self.values = 0

    def node(self, event: Any, depth: int) -> tuple[Node, int]:
        """(the node that begins with `event`, its levels)."""
        where = f"line {event.start_mark.line + 1}"
        if depth > DEEPEST:
            raise YamlFault(f"{where}: nested more than {DEEPEST} levels deep")
        self.values += 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth, where)
        kind = "str" if isinstance(event, yaml.ScalarEvent) else None
        if event.tag is not None and _CORE.get(event.tag) not in (kind or "seq", kind or "map"):
            raise YamlFault(f"{where}: the tag {shown(event.tag)} is not read")
        before = self.values
        made: Node
        if isinstance(event, yaml.ScalarEvent):
            made, levels = _scalar(event), 1
        elif isinstance(event, yaml.SequenceStartEvent):
            made, levels = self._sequence(depth)
        else:
            made, levels = self._mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = made, self.values - before + 1, levels
        self._count(where)
        return made, levels

    def _count(self, where: str) -> None:
        if self.values > MOST_VALUES:
            raise YamlFault(f"{where}: more than {MOST_VALUES:,} values")

    def _alias(self, event: Any, depth: int, where: str) -> tuple[Node, int]:
        if event.anchor not in self.anchors:
            raise YamlFault(f"{where}: the alias *{shown(event.anchor)} names nothing that is complete")
        made, values, levels = self.anchors[event.anchor]
        self.values += values
        self._count(where)
        if depth + levels > DEEPEST:
            raise YamlFault(f"{where}: nested more than {DEEPEST} levels deep")
        return made, levels

    def _sequence(self, depth: int) -> tuple[list[Node], int]:
        made, levels = [], 0
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            value, below = self.node(event, depth + 1)
            made.append(value)
            levels = max(levels, below)
        return made, levels + 1

    def _mapping(self, depth: int) -> tuple[dict[str, Node], int]:
        made: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        levels = 0
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            where = f"line {event.start_mark.line + 1}"
            key, _ = self.node(event, depth + 1)
            value, below = self.node(next(self.events), depth + 1)
            levels = max(levels, below)
            if not isinstance(key, str):
                raise YamlFault(f"{where}: a key must be a word")
            if isinstance(key, Plain) and key == "<<":
                merged = _merged(value, where) | merged
            elif key in made:
                raise YamlFault(f"{where}: the key {shown(key)} stands twice")
            else:
                made[str(key)] = value
        return merged | made if merged else made, levels + 1


def _scalar(event: Any) -> str:
    quoted = event.style in ("'", '"', "|", ">") or event.tag is not None
    return str(event.value) if quoted else Plain(event.value)


def _merged(value: Node, where: str) -> dict[str, Node]:
    """What `<<: *one` or `<<: [*one, *another]` brings; the first one wins."""
    found: dict[str, Node] = {}
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            raise YamlFault(f"{where}: << takes mappings")
        found = one | found
    return found


def parse(text: str) -> Node:
    """The one document of `text`, unquoted scalars as Plain; an empty text is an empty Plain. Raises YamlFault."""
    events = yaml.parse(text, Loader=_LOADER)
    try:
        next(events)  # the stream's start
        if isinstance(next(events), yaml.StreamEndEvent):
            return Plain("")
        made, _ = _Builder(events).node(next(events), 1)
        next(events)  # the document's end
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise YamlFault("holds several documents")
    except (yaml.YAMLError, UnicodeError) as error:
        # libyaml calls every text "<unicode string>"; whoever read a file names it.
        raise YamlFault(_NO_NAME.sub(",", " ".join(str(error).split()))) from None
    return made


def read(path: Path) -> Node:
    """The document in a file. Raises YamlFault that names it."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise YamlFault(f"cannot read {shown(path)}: it is no plain file")
        if found.st_size > MOST_BYTES:
            raise YamlFault(f"cannot read {shown(path)}: it holds more than {MOST_BYTES // 2**20} MiB")
        return parse(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise YamlFault(f"no such file: {shown(path)}") from None
    except OSError as error:
        raise YamlFault(f"cannot read {shown(path)}: {error.strerror}") from None
    except ValueError as error:  # also UnicodeDecodeError, and the NUL that no path may hold
        if isinstance(error, YamlFault) and str(error).startswith("cannot read"):
            raise
        raise YamlFault(f"cannot read {shown(path)}: {error}") from None


def shown(text: object, most: int = 200) -> str:
    """`text` on one line and not longer than `most` characters, for messages."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: most + 1])
    return plain if len(plain) <= most else plain[: most - 3] + "..."


class _Dumper(yaml.SafeDumper):
    """Quotes whatever a reader could take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: _Dumper, text: str) -> Any:
    quoted = not isinstance(scalar(text), str) or text in ("y", "Y", "n", "N")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _represent)


def dump(values: Any) -> str:
    """`values` (mappings, lists, text, numbers) as YAML, keys in their order."""
    written: str = yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return written
