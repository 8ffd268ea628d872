"""The files below the user's own keys: dataset, pair, method, recipe.

A layer file states differences only; its `per:` list holds further differences, each with the selectors they apply to.
A recipe may be `like:` another one and state its differences from that.
"""

import copy
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.config.by_type import Kind, typed
from pipeline.config.keys import ConfigError, NoLayer, Problems, flatten
from pipeline.config.layer_check import (
    SELECTORS,
    Canonical,
    Known,
    Layer,
    keys_of,
    layer_of,
    name_problems,
    table_problems,
)
from pipeline.config.layer_folders import layer_files
from pipeline.config.words import read_tree
from pipeline.utils.places import CONFIGS
from pipeline.utils.plain_yaml import resolve
from pipeline.utils.suggest import hint, nearest, short


def read_yaml(path: Path, schema: type[BaseModel] | None = None) -> dict[str, Any]:
    """A mapping out of a YAML file, the caller's own. Raises ConfigError that names the file.

    schema: whose keys these are; text then is what is written, and paths have the user's home for `~`.
    """
    tree = read_tree(path) if CONFIGS not in path.parents else _ours(path)
    values: dict[str, Any] = resolve(tree) if schema is None else typed(Kind(section=schema), tree)
    return values


def _ours(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return read_tree(path)
    return _kept(path, *_stamp(path))


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=256)
def _kept(path: Path, *stamp: int) -> dict[str, Any]:
    """A file of ours as it was at `stamp`: a sweep reads the same ones for each of its runs, 60 % of their cost."""
    return read_tree(path)


@functools.lru_cache(maxsize=256)
def _checked(kind: str, path: Path, *stamp: int) -> Layer:
    return layer_of(kind, path, read_tree(path), CONFIGS)


def squash(name: str) -> str:
    """Letters and digits only, lower case: spellings that differ in separators compare equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_pair(spelling: str, table: Mapping[str, Any]) -> str:
    """The canonical pair of configs/pairs.yaml that a usual spelling (res32x4_res8x4) means. Raises ConfigError."""
    prefixes: dict[str, list[str]] = table["spellings"]

    def spellings(model: str) -> list[str]:
        plain = squash(model.rpartition("/")[2])
        for full, others in prefixes.items():
            if plain.startswith(full):
                return [plain] + [other + plain[len(full) :] for other in others]
        return [plain]

    by_spelling = {
        teacher + student: str(name)
        for name, row in table["pairs"].items()
        for teacher in spellings(row["teacher"]["model"])
        for student in spellings(row["student"]["model"])
    }
    wanted = squash(spelling)
    if wanted in by_spelling:
        return by_spelling[wanted]
    close = nearest(wanted, list(by_spelling))
    near = f"; did you mean {by_spelling[close]!r}?" if close else ""
    known = ", ".join(dict.fromkeys(by_spelling.values()))
    raise ConfigError(
        [f"unknown pair {short(spelling)}{near} (known: {known}; or set teacher.model and student.model)"]
    )


def layer_path(kind: str, name: str) -> Path:
    """configs/<kind>/<name>.yaml, or that of the user's own folder. Raises NoLayer that names the nearest one."""
    known = layer_files(CONFIGS, kind)
    if str(name).lower() not in known:
        near = hint(str(name).lower(), list(known))
        raise NoLayer([f"unknown {kind} {short(name)}{near} (known: {', '.join(known)})"], kind, name)
    return known[str(name).lower()]


def layer_file(kind: str, name: str, schema: type[BaseModel] | None = None) -> dict[str, Any]:
    """The content of configs/<kind>/<name>.yaml, the caller's own. Raises ConfigError.

    A data set's, a method's or a recipe's is checked, each key typed; others are read by `schema` (see read_yaml).
    """
    if kind not in SELECTORS:
        return read_yaml(layer_path(kind, name), schema)
    layer = _layer(kind, name)
    if layer.problems:
        raise ConfigError(list(layer.problems))
    return copy.deepcopy(layer.content)


def _layer(kind: str, name: str) -> Layer:
    path = layer_path(kind, name)
    return _checked(kind, path, *_stamp(path))


def pairs_table() -> dict[str, Any]:
    """configs/pairs.yaml, checked, its rows typed. Raises ConfigError."""
    path = CONFIGS / "pairs.yaml"
    if not path.is_file():
        raise ConfigError([f"no such file: {path}"])
    return _pairs(path, *_stamp(path))


@functools.lru_cache(maxsize=8)
def _pairs(path: Path, *stamp: int) -> dict[str, Any]:
    table = read_tree(path)
    problems = table_problems(table, path)
    if problems:
        raise ConfigError(problems)
    return {**table, "pairs": {name: keys_of(row, name, problems) for name, row in table["pairs"].items()}}


def recipe_file(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """configs/recipe/<name>.yaml on top of the recipe that its `like:` names, if any. above: those that led here."""
    own = layer_file("recipe", name)
    below = own.pop("like", None)
    if below is None:
        return own
    if below in (name, *above):
        raise ConfigError([f"recipe {name}: like: {below} leads back to itself"])
    base, exceptions = recipe_file(below, (name, *above)), own.pop("per", [])
    always = [{"when": {}, "set": own}] if own else []
    return base | {"per": [*base.get("per", []), *always, *exceptions]}


def _applies(when: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return all(chosen.get(k) in (v if isinstance(v, list) else [v]) for k, v in when.items())


def unfold(layer: dict[str, Any], chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layer itself, then those of its `per:` entries that apply to the chosen selectors, in order."""
    own = {key: value for key, value in layer.items() if key not in ("per", "with")}
    return [own] + [e["set"] for e in layer.get("per", []) if _applies(e["when"], chosen)]


def parts_of(method: str | None) -> list[str]:
    """['kd', 'crd'] for kd+crd."""
    return str(method).split("+")


def _method_layer(name: str) -> dict[str, Any]:
    """The file of a method; of a combination by parts: {part: file}."""
    parts = parts_of(name)
    return layer_file("method", name) if len(parts) == 1 else {part: layer_file("method", part) for part in parts}


def _changes(files: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What parts of a combination change in others (`with:`); above the recipe, which speaks of methods alone."""
    parts = parts_of(chosen["method"])
    if len(parts) == 1:
        return []
    found = []
    for part in parts:
        for other, change in files[part].get("with", {}).items():
            if other in parts:
                found += [_nested(content, other) for content in unfold(change, {**chosen, "method": other})]
    return [{key: value for key, value in content.items() if key != "recipe"} for content in found]


def _nested(content: dict[str, Any], part: str) -> dict[str, Any]:
    """A layer of a combination: method_args lie under their part's name."""
    return content | {name: {part: content[name]} for name in ("method_args",) if name in content}


def _unfold_parts(layer: dict[str, Any], chosen: Mapping[str, Any], by_part: bool) -> list[dict[str, Any]]:
    """`unfold` for a combination: of each part's file, or of one that speaks of all, whose order holds for any order
    of the parts."""
    parts = parts_of(chosen.get("method"))
    if len(parts) == 1:
        return unfold(layer, chosen)
    of = {part: {**chosen, "method": part} for part in parts}
    if by_part:
        return [_nested(content, part) for part in parts for content in unfold(layer[part], of[part])]
    entries = [{"when": {}, "set": unfold(layer, {})[0]}, *layer.get("per", [])]
    return [_nested(e["set"], part) for e in entries for part in parts if _applies(e["when"], of[part])]


def student_of(
    given: Mapping[str, Any], found: Mapping[str, dict[str, Any]], canonical: Canonical | None
) -> str | None:
    """The student's registered name without its prefix: what `when: {student: [...]}` is compared with."""
    pair = found.get("pair", {})
    model = flatten(dict(given)).get("student.model") or pair.get("student", {}).get("model")
    if model is None or canonical is None:
        return None
    networks = given.get("networks") or found.get("dataset", {}).get("networks", "cifar")
    try:
        return canonical(str(model), {"networks": networks}).rpartition("/")[2]
    except LookupError:
        return None  # reported where the keys are validated


def _recipe_of(layer: Mapping[str, Any], parts: list[str]) -> str | None:
    """The recipe that a method's file names. Of a combination: the one for a part that another changes (`with:`), else
    that of the last part which names one."""
    files = [layer] if len(parts) == 1 else [layer.get(part, {}) for part in parts]
    own = [file.get("recipe") for file in files]
    changed = [file.get("with", {}).get(other, {}).get("recipe") for file in files for other in parts]
    return next((recipe for recipe in reversed(own + changed) if recipe), None)


def _misnamed(kind: str, name: str | None, known: Known) -> Problems:
    """What is wrong with the names in a layer's file, and in those of the recipes below it."""
    problems: Problems = []
    methods = list(layer_files(CONFIGS, "method"))
    for part in parts_of(name) if kind == "method" else [name]:
        seen: list[str] = []
        while part is not None and part not in seen:
            layer = _layer(kind, part)
            problems += name_problems(layer, known, methods)
            seen.append(part)
            part = layer.content.get("like") if kind == "recipe" else None
    return problems


def layers_of(
    given: Mapping[str, Any],
    problems: Problems,
    uses: tuple[str, ...],
    names: Mapping[str, Canonical],
    arguments: Callable[[str], type] | None = None,
) -> list[dict[str, Any]]:
    """The layers below the user's own, in order.

    uses: the selectors that the entry point knows; names: by key, what gives a part's registered name; arguments: gives
    a method's dataclass.
    """
    network = names.get("student.model")
    chosen: dict[str, Any] = {k: given.get(k) for k in SELECTORS if k in uses}
    found: dict[str, dict[str, Any]] = {}

    def load(kind: str, read: Callable[[], dict[str, Any]]) -> None:
        try:
            found[kind] = read()
            problems.extend(_misnamed(kind, chosen[kind], Known(network, arguments)))
        except NoLayer as error:
            problems.extend(error.told(names))
        except ConfigError as error:
            problems.extend(error.problems)

    if chosen.get("dataset") is not None:
        load("dataset", lambda: layer_file("dataset", chosen["dataset"]))
    if chosen.get("pair") is not None:
        try:
            table = pairs_table()
            chosen["pair"] = find_pair(str(chosen["pair"]), table)
            found["pair"] = table["pairs"][chosen["pair"]] | {"pair": chosen["pair"]}
        except ConfigError as error:
            problems.extend(error.problems)
    if "method" in uses:
        chosen["method"] = chosen["method"] or "vanilla"
        load("method", lambda: _method_layer(str(chosen["method"])))
    if "recipe" in uses:
        of_method = _recipe_of(found.get("method", {}), parts_of(chosen.get("method")))
        chosen["recipe"] = of_method if chosen["recipe"] in (None, "default") else chosen["recipe"]
        if chosen["recipe"] is not None:
            load("recipe", lambda: recipe_file(chosen["recipe"]) | {"recipe": chosen["recipe"]})
    chosen["variant"] = given.get("variant")
    chosen["student"] = student_of(given, found, network)
    layers = [
        part for kind in SELECTORS if kind in found for part in _unfold_parts(found[kind], chosen, kind == "method")
    ]
    if "method" not in found:
        return layers
    return [*layers, *_changes(found["method"], chosen), {"method": chosen["method"]}]
