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

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.keys import ConfigError, Problems, flatten
from pipeline.nearest import hint, nearest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SELECTORS = ("dataset", "pair", "method", "recipe")
Canonical = Callable[[str, Mapping[str, Any]], str]


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping out of a YAML file, the caller's own. Raises ConfigError that names the file."""
    if CONFIGS not in path.parents or not path.is_file():
        return _parsed(path)
    found = path.stat()
    return copy.deepcopy(_kept(path, found.st_mtime_ns, found.st_size, found.st_ino))


@functools.lru_cache(maxsize=256)
def _kept(path: Path, *stamp: int) -> dict[str, Any]:
    """A file of ours as it was at `stamp`: a sweep reads the same ones for each of its runs, 60 % of their cost."""
    return _parsed(path)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        raise ConfigError([f"no such file: {path}"]) from None
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([f"cannot read {path}: {' '.join(str(error).split())}"]) from None
    if not isinstance(content, dict):
        raise ConfigError([f"{path} does not hold a mapping of keys"])
    return {str(k): v for k, v in content.items()}


def squash(name: str) -> str:
    """Letters and digits only, lower case: spellings that differ in separators compare equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_pair(spelling: str, table: Mapping[str, Any]) -> str:
    """The canonical pair of configs/pairs.yaml that a usual spelling (res32x4_res8x4) means. Raises ConfigError."""
    prefixes: dict[str, list[str]] = table["spellings"]

    def spellings(model: str) -> list[str]:
        plain = squash(model.rpartition("/")[2])
        for full, short in prefixes.items():
            if plain.startswith(full):
                return [plain] + [s + plain[len(full) :] for s in short]
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
    raise ConfigError([f"unknown pair {spelling!r}{near} (known: {known}; or set teacher.model and student.model)"])


def layer_file(kind: str, name: str) -> dict[str, Any]:
    """configs/<kind>/<name>.yaml. Raises ConfigError that names the nearest known one."""
    path = CONFIGS / kind / f"{str(name).lower()}.yaml"
    if not re.fullmatch(r"[\w+.-]+", str(name)) or not path.is_file():
        known = sorted(p.stem for p in (CONFIGS / kind).glob("*.yaml"))
        raise ConfigError([f"unknown {kind} {name!r}{hint(str(name).lower(), known)} (known: {', '.join(known)})"])
    return read_yaml(path)


def recipe_file(name: str) -> dict[str, Any]:
    """configs/recipe/<name>.yaml on top of the recipe that its `like:` names, if any."""
    own = layer_file("recipe", name)
    below = own.pop("like", None)
    if below is None:
        return own
    base, exceptions = recipe_file(below), own.pop("per", [])
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


def _changes(files: Mapping[str, Any], parts: list[str]) -> list[dict[str, Any]]:
    """What parts of a combination change in others (`with:`); above the recipe, which speaks of methods alone."""
    if len(parts) == 1:
        return []
    found = []
    for part in parts:
        for other, content in files[part].get("with", {}).items():
            if other in parts:
                found.append({**content, "method_args": {other: content.get("method_args", {})}})
    return found


def _unfold_parts(layer: dict[str, Any], chosen: Mapping[str, Any], by_part: bool) -> list[dict[str, Any]]:
    """`unfold` for each part of a combination, its method_args under the part's name."""
    parts = parts_of(chosen.get("method"))
    if len(parts) == 1:
        return unfold(layer, chosen)
    found = []
    for part in parts:
        for content in unfold(layer[part] if by_part else layer, {**chosen, "method": part}):
            nested = {"method_args": {part: content["method_args"]}} if "method_args" in content else {}
            found.append({**content, **nested})
    return found


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
    """The recipe that a method's file names; of a combination that of the last part which names one."""
    files = [layer] if len(parts) == 1 else [layer.get(part, {}) for part in parts]
    return next((file["recipe"] for file in reversed(files) if file.get("recipe")), None)


def layers_of(
    given: Mapping[str, Any], problems: Problems, uses: tuple[str, ...], network: Canonical | None = None
) -> list[dict[str, Any]]:
    """The layers below the user's own, in order.

    uses: the selectors that the entry point knows; network: gives a network's registered name.
    """
    chosen: dict[str, Any] = {k: given.get(k) for k in SELECTORS if k in uses}
    found: dict[str, dict[str, Any]] = {}

    def load(kind: str, read: Callable[[], dict[str, Any]]) -> None:
        try:
            found[kind] = read()
        except ConfigError as error:
            problems.extend(error.problems)

    if chosen.get("dataset") is not None:
        load("dataset", lambda: layer_file("dataset", chosen["dataset"]))
    if chosen.get("pair") is not None:
        table = read_yaml(CONFIGS / "pairs.yaml")
        try:
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
    return [*layers, *_changes(found["method"], parts_of(chosen["method"])), {"method": chosen["method"]}]
