"""A sweep's file, what the command line changes in it, and the words of the runs besides."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.jobs.cluster import with_site
from launch.sweeps.keys import Asked, Keys, SweepConfig, SweepFile, dotted
from pipeline.builders.names import ALIASES
from pipeline.config import ConfigError, TrainConfig, validate
from pipeline.config.by_type import ANY, kinds_of, typed, typed_keys
from pipeline.config.layer_folders import layer_files
from pipeline.config.layers import CONFIGS
from pipeline.config.words import known_keys, parse_arguments, read_tree, spread, well_shaped
from pipeline.pictures import PICTURES
from pipeline.registry import UnknownName
from pipeline.utils.plain_yaml import Plain
from pipeline.utils.suggest import hint

FOLDER = CONFIGS / "sweep"
OF_LAUNCHER = ("sweep=", "sweep.", "cluster=", "cluster.", "follow=")
OF_FILE = re.compile(
    r"(axes|teacher_set|cache)\.|(title|seeds|first_seed|table|teachers|exclude|include|axes|set|cache)="
)
OF_TRAINING = ("set", "teacher_set", "words", "axes", "include", "exclude")  # of the file: keys of train.py
FIXED = {
    "run.name": "the sweep names its runs",
    "run.resume": "a sweep goes on with what there is; choose another run.dir to start anew",
    "seeds": "a key of the sweep's own, not of set: or axes:",
    "config": "write its keys under set:",
}


def sweep_path(name: str) -> Path:
    """The file of a sweep. Raises ConfigError that names the known ones."""
    given = Path(name).expanduser()
    if given.suffix in (".yaml", ".yml"):
        if not given.is_file():
            raise ConfigError([f"sweep={name}: no such file"])
        return given
    known = layer_files(CONFIGS, "sweep")
    if name not in known:
        near = hint(name, list(known))
        raise ConfigError([f"unknown sweep {name!r}{near} (known: {', '.join(known)}; or FILE.yaml)"])
    return known[name]


def read_file(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a sweep's file, with `like:` another one below it. above: files that are like it. Raises
    ConfigError."""
    kinds = kinds_of(SweepFile)
    content = {
        name: typed_keys(TrainConfig, node, ALIASES) if name in OF_TRAINING else typed(kinds.get(name, ANY), node)
        for name, node in read_tree(path).items()
    }
    below = content.pop("like", None)
    if below is None:
        return content
    base = sweep_path(str(below))
    above = (*above, path.resolve())
    if base.resolve() in above:
        raise ConfigError(
            [f"{path}: like: itself" if base.resolve() == above[-1] else f"{path}: like: goes in a circle"]
        )
    return {**read_file(base, above), **content}


def checked_file(content: Mapping[str, Any], where: str) -> SweepFile:
    """`content` as a SweepFile. Raises ConfigError with all problems, each with the nearest known key."""
    try:
        file = validate(SweepFile, content)
    except ConfigError as error:
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from None
    except (TypeError, ValueError, RecursionError) as error:  # YAML has dates and cycles
        raise ConfigError([f"{where}: {' '.join(str(error).split())}"]) from None
    places = [("set", file.set | file.words), ("teacher_set", file.teacher_set), ("axes", file.axes)]
    places += [("axes", entry) for row in file.axes.values() for entry in row if isinstance(entry, dict)]
    places += [("include", entry) for entry in file.include]
    problems = [f"{name}: {k}: {why}" for name, found in places for k, why in FIXED.items() if k in found]
    problems += [f"{name}: run.dir: one for all runs" for name, found in places[2:] if "run.dir" in found]
    if problems:
        raise ConfigError([f"{where}: {problem}" for problem in dict.fromkeys(problems)])
    return file


def unknown_keys(file: SweepFile) -> list[str]:
    """A line for each dotted key of the file that train.py does not know, or that goes on below a plain one.

    The name of an axis of mappings means nothing.
    """
    problems: list[str] = []
    known = [*known_keys(TrainConfig), *ALIASES, *FIXED]
    rows = [entry for row in file.axes.values() for entry in row if isinstance(entry, dict)]
    plain = {name: None for name, row in file.axes.items() if not all(isinstance(entry, dict) for entry in row)}
    places = [("set", file.set), ("words", file.words), ("teacher_set", file.teacher_set), ("axes", plain)]
    places += [("axes", entry) for entry in rows] + [("include", entry) for entry in file.include]
    for where, keys in places:
        for name in keys:
            if name not in FIXED:
                spelled = spread({name: Plain("1")}, ALIASES, where, problems)
                well_shaped(TrainConfig, spelled, problems, where=where, known=known)
    return list(dict.fromkeys(problems))


def read_words(argv: Sequence[str]) -> Asked:
    """The command line and the file it names. Raises ConfigError with all problems, HelpRequested."""
    problems: list[str] = []
    own = [w for w in argv if w.startswith(OF_LAUNCHER)]
    of_file = [w for w in argv if OF_FILE.match(w)]
    rest = [w for w in argv if w not in own and w not in of_file]
    given = parse_arguments(own, {"cluster": "cluster.name", "sweep": "sweep.name"}, problems, SweepConfig)
    changes = parse_arguments(of_file, {}, problems, SweepFile)
    words: Keys = dotted(parse_arguments(rest, ALIASES, problems, TrainConfig))
    problems += [f"{k}: {why}" for k, why in FIXED.items() if k in words]
    problems += unknown_tops(words)
    launcher, file, cluster = None, None, given.get("cluster", {})
    try:
        cluster = with_site(cluster)
    except ConfigError as error:
        problems += error.problems
        cluster = {}
    try:
        launcher = validate(SweepConfig, given | {"cluster": cluster})
        for picture in launcher.sweep.pictures or ():
            PICTURES.canonical(picture)
    except ConfigError as error:
        problems += error.problems
    except UnknownName as error:
        problems.append(f"sweep.pictures: {error.args[0]}")
    name = str(given.get("sweep", {}).get("name", ""))
    if name:
        try:
            path = sweep_path(name)
            content = read_file(path)
            file = checked_file(_changed(content, changes), path.name)
            with contextlib.suppress(ConfigError):  # of what the command line has mended
                problems += [f"{path.name}: {line}" for line in unknown_keys(checked_file(content, path.name))]
        except ConfigError as error:
            problems += error.problems
    if problems or launcher is None or file is None:
        raise ConfigError(problems)
    return Asked.model_construct(launcher=launcher, file=file, words=file.words | words)


def unknown_tops(words: Keys) -> list[str]:
    """A line for each word that neither the sweep nor train.py has a section for."""
    of_training = {*TrainConfig.model_fields, *ALIASES, *FIXED}
    known = sorted(of_training | {*SweepFile.model_fields, *SweepConfig.model_fields})
    tops = dict.fromkeys(name.partition(".")[0] for name in words)
    return [f"unknown key {top!r}{hint(top, known)}" for top in tops if top not in of_training]


def _changed(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The file with what the command line says; an axis, a list or a plain value is replaced, mappings are merged."""
    found = {**content, **{k: v for k, v in changes.items() if not isinstance(v, dict)}}
    for name, value in changes.items():
        if isinstance(value, dict):
            below = dotted(content.get(name) or {})
            found[name] = below | dotted(value) if isinstance(below, dict) else value
    return found


def sweep_name(name: str) -> str:
    """What the sweep's folder is called."""
    return Path(name).stem if Path(name).suffix in (".yaml", ".yml") else name


def plain(file: SweepFile, words: Keys) -> str:
    """The sweep with all that the command line changed, as YAML; it can be given as sweep=FILE.yaml again."""
    content = file.model_copy(update={"words": words}).model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, width=110)
