"""Whether a layer file says what its author means: a word that nobody reads is refused, with the nearest known one."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.by_type import ANY, Kind, typed
from pipeline.config.keys import Problems
from pipeline.config.layer_folders import layer_files, place_of
from pipeline.config.schema import TrainConfig
from pipeline.config.validation import value_problems
from pipeline.config.words import known_keys, spread, well_shaped
from pipeline.utils.plain_yaml import Plain, YamlFault, read, shown
from pipeline.utils.suggest import hint, short

SELECTORS = ("dataset", "pair", "method", "recipe")
CHOSEN_BY = (*SELECTORS, "variant", "student")  # what `when:` may ask for
OWN = {"dataset": ("num_classes", "per"), "method": ("recipe", "with", "per"), "recipe": ("like", "per")}
KEYS = [name for name in known_keys(TrainConfig) if name not in SELECTORS]
CHANGE = ("recipe", "per")  # what `with:` may say of a method besides keys
ENTRY = ("when", "set")
TEXTS = Kind(item=Kind(text=True))
Canonical = Callable[[str, Mapping[str, Any]], str]


@dataclass(frozen=True)
class Layer:
    """A file, each key typed, and what is wrong with it."""

    where: str
    content: dict[str, Any]
    problems: tuple[str, ...]


class Known(NamedTuple):
    """What the entry point can say about names. network: gives the registered one; arguments: a method's dataclass."""

    network: Canonical | None = None
    arguments: Callable[[str], type] | None = None


def unknown_words(given: Iterable[str], known: Iterable[str], where: str) -> Problems:
    """A line for each word of a file (`where`) that is not among the known ones, with the nearest of them."""
    names = [str(name) for name in known]
    return [
        f"{where}: unknown word {short(word)}{hint(str(word), names)} (known: {', '.join(names)})"
        for word in [word for word in given if word not in names][:20]
    ]


def layer_of(kind: str, path: Path, tree: Mapping[str, Any], configs: Path) -> Layer:
    """The checked content of configs/<kind>/<name>.yaml. tree: of `plain_yaml`."""
    where, problems = place_of(configs, path), list[str]()
    content = _content(tree, OWN[kind], where, f"{where}: ", problems, configs)
    return Layer(where, content, tuple(problems))


def _content(
    tree: Mapping[str, Any], own: tuple[str, ...], where: str, prefix: str, problems: Problems, configs: Path
) -> dict[str, Any]:
    """Keys of train.py, and the words `own` of layer files; prefix: of a word's place in a line."""
    special = {name: value for name, value in tree.items() if name in own}
    content = keys_of({k: v for k, v in tree.items() if k not in special}, where, problems, own)
    for name, value in special.items():
        if name == "per":
            content[name] = _entries(value, f"{prefix}per", problems, configs)
        elif name == "with":
            content[name] = _changes(value, f"{prefix}with", problems, configs)
        elif name == "num_classes":
            content[name] = typed(ANY, value)
            if not isinstance(content[name], int) or content[name] < 1:
                problems.append(f"{prefix}num_classes: {shown(value, 100)} is no number of classes")
        elif isinstance(value, str):
            content[name] = str(value)
            problems += unknown_words([content[name]], _stems(configs, "recipe"), where)
        else:
            problems.append(f"{prefix}{name}: {shown(value, 100)} is no name")
    return content


def keys_of(tree: Any, where: str, problems: Problems, besides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Keys of train.py in a part of a file, typed; dotted ones are nested. besides: further words that belong there."""
    if not isinstance(tree, Mapping):
        problems.append(f"{where}: {shown(tree, 100)} is no mapping of keys")
        return {}
    chosen = [name for name in tree if name in SELECTORS]
    problems += [f"{where}: {name}: the command line chooses it, not a file" for name in chosen]
    spelled = spread({k: v for k, v in tree.items() if k not in chosen}, {}, where, problems)
    content = well_shaped(TrainConfig, spelled, problems, where=where, known=[*KEYS, *besides])
    problems += [f"{where}: {line}" for line in value_problems(TrainConfig, content)]
    return content


def _entries(tree: Any, where: str, problems: Problems, configs: Path) -> list[dict[str, Any]]:
    entries = []
    empty = isinstance(tree, Plain) and not tree
    if not isinstance(tree, list) and not empty:
        problems.append(f"{where}: {shown(tree, 100)} is no list of entries with when: and set:")
    for i, entry in enumerate(tree if isinstance(tree, list) else []):
        place = f"{where}[{i}]"
        if not isinstance(entry, Mapping):
            problems.append(f"{place}: {shown(entry, 100)} is no entry with when: and set:")
            continue
        problems += unknown_words(entry, ENTRY, place)
        problems += [f"{place}: {name}: is missing" for name in ENTRY if name not in entry]
        when = _conditions(entry.get("when", {}), f"{place}.when", problems, configs)
        entries.append({"when": when, "set": keys_of(entry.get("set", {}), f"{place}.set", problems)})
    return entries


def _conditions(tree: Any, where: str, problems: Problems, configs: Path) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        problems.append(f"{where}: {shown(tree, 100)} is no mapping, such as {{dataset: cifar100}}")
        return {}
    problems += unknown_words(tree, CHOSEN_BY, where)
    found: dict[str, Any] = {}
    for name, value in tree.items():
        texts = typed(TEXTS, value if isinstance(value, list) else [value])
        if not all(isinstance(text, str) for text in texts):
            problems.append(f"{where}.{name}: {shown(value, 100)} is no name, and no list of names")
            continue
        found[name] = texts if isinstance(value, list) else texts[0]
        if name in ("dataset", "method", "recipe"):
            problems += unknown_words(texts, _stems(configs, name), f"{where}.{name}")
        if name == "pair":
            problems += unknown_words(texts, _pairs(configs), f"{where}.pair")
    return found


def _changes(tree: Any, where: str, problems: Problems, configs: Path) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        problems.append(f"{where}: {shown(tree, 100)} is no mapping of methods")
        return {}
    problems += unknown_words(tree, _stems(configs, "method"), where)
    found = {}
    for name, value in tree.items():
        place = f"{where}.{name}"
        if isinstance(value, Mapping):
            found[name] = _content(value, CHANGE, place, f"{place}.", problems, configs)
        else:
            found[name] = keys_of(value, place, problems)
    return found


def _stems(configs: Path, kind: str) -> list[str]:
    return list(layer_files(configs, kind))


def _pairs(configs: Path) -> list[str]:
    try:
        return list(read(configs / "pairs.yaml")["pairs"])
    except (YamlFault, KeyError, TypeError):
        return []  # said where the table itself is read


def name_problems(layer: Layer, known: Known, methods: list[str]) -> Problems:
    """What is wrong with the layer's names of networks and of methods' hyper-parameters.

    methods: all there are; a hyper-parameter belongs to those that its place is about.
    """
    found: Problems = []
    for place, _, entry in _all_entries(layer.content, f"{layer.where}: ", methods):
        if known.network is not None:
            found += _networks(entry["when"].get("student"), known.network, f"{place}.when.student")
    if known.arguments is None:
        return found
    for place, of, given in _arguments(layer, methods):
        fields = set[str]().union(*(_fields(one, known.arguments) for one in of))
        found += unknown_words(given, sorted(fields), f"{place}: method_args") if fields else []
    return found


def _networks(given: Any, network: Canonical, where: str) -> Problems:
    names = given if isinstance(given, list) else [] if given is None else [given]
    return [f"{where}: {reason}" for name in names if (reason := _no_network(name, network))]


@functools.cache
def _no_network(name: str, network: Canonical) -> str | None:
    """Why no repository has a network of this name; None where one does."""
    reason = None
    for networks in ("cifar", "tiny", "imagenet"):
        try:
            network(name, {"networks": networks})
            return None
        except LookupError as error:
            reason = reason or str(error.args[0])
    return reason


def _fields(method: str, arguments: Callable[[str], type]) -> set[str]:
    try:
        return set(getattr(arguments(method), "__dataclass_fields__", {}))
    except LookupError:
        return set()  # a file without its method: said where it is used


def _all_entries(content: Mapping[str, Any], prefix: str, of: list[str]) -> Iterator[tuple[str, list[str], Any]]:
    """(place, methods that it is about, entry) of every `per:` entry, those below `with:` included."""
    for i, entry in enumerate(content.get("per", [])):
        yield f"{prefix}per[{i}]", of, entry
    for name, change in content.get("with", {}).items():
        yield from _all_entries(change, f"{prefix}with.{name}.", [name])


def _arguments(layer: Layer, methods: list[str]) -> Iterator[tuple[str, list[str], Mapping[str, Any]]]:
    """(place, methods that it is about, its method_args) of every place that has some."""
    kind, file = layer.where.split("/")[-2:]
    own = [file.removesuffix(".yaml")] if kind == "method" else methods
    yield layer.where, own, layer.content.get("method_args", {})
    for place, of, entry in _all_entries(layer.content, f"{layer.where}: ", own):
        asked = entry["when"].get("method", of)
        yield f"{place}.set", asked if isinstance(asked, list) else [asked], entry["set"].get("method_args", {})
    for name, content in layer.content.get("with", {}).items():
        yield f"{layer.where}: with.{name}", [name], content.get("method_args", {})


def table_problems(table: Mapping[str, Any], path: Path) -> Problems:
    """What is wrong with configs/pairs.yaml."""
    where = f"{path.parent.name}/{path.name}"
    problems = unknown_words(table, ("spellings", "pairs"), where)
    for name in ("spellings", "pairs"):
        if not isinstance(table.get(name), dict):
            return [*problems, f"{where}: {name}: is missing, or no mapping"]
    for name, other in table["spellings"].items():
        if not isinstance(other, list) or not all(isinstance(one, str) for one in other):
            problems.append(f"{where}: spellings.{shown(name)}: is no list of names")
    for name, row in table["pairs"].items():
        place = f"{where}: pairs.{shown(name)}"
        found = keys_of(row, place, problems)
        for side in ("teacher", "student"):
            if not isinstance(found.get(side, {}).get("model"), str):
                problems.append(f"{place}: {side}.model: is missing")
    return problems
