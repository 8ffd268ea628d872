"""How a teacher looks at images, from what its file says: filled into the configuration before a run starts.

The configuration is what the run folder records, so that a run goes on with what it began with, whatever later versions
take by themselves. For entry points only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from pipeline.builders import networks
from pipeline.builders.method import method_kinds, teacher_preprocess
from pipeline.config import ConfigError, TrainConfig, flatten, read_yaml
from pipeline.contracts import InputError
from pipeline.models.predicting import PredictingNetwork
from pipeline.run_folder.description import FILE
from pipeline.run_folder.student import Known, known_of, plain
from pipeline.utils.untrusted_files import Unreadable

C = TypeVar("C", bound=TrainConfig)
OWN = ("mean", "std", "image_size", "interpolation")  # of teacher.*
CACHED = "made.yaml"  # in a teacher cache: the keys that it was written with
STATES = ("checkpoints/last.pt", "checkpoints/previous.pt")


def with_own_values(config: C, folder: Path | None = None) -> tuple[C, list[str]]:
    """`config` with teacher.mean, std, image_size, interpolation and args where its file knows better than the
    defaults, and lines that say what is used.

    folder: of the run, None where it starts anew; one that has begun goes on with what it recorded. Keys that the user
    gives win. Raises InputError.
    """
    if not any(kind.needs for kind in method_kinds(config).values()):
        return config, []
    there = _recorded(folder / "config.yaml") if folder is not None else None
    if there is not None:
        return _filled(config, {**{name: there.get(name) for name in OWN}, "args": there.get("args")}), []
    known = known_of(teacher_file(config))
    if known is not None:
        return _filled(config, own_values(config, known)), _lines(config, known)
    if config.teacher.checkpoint is None and config.teacher.cache is not None:
        made = _recorded(Path(config.teacher.cache).expanduser() / CACHED) or {}
        return _filled(config, {name: made.get(name) for name in OWN}), []
    return config, _hints(config)


def teacher_file(config: TrainConfig) -> Path | None:
    """The file or run folder of the teacher's weights, None where there is none to be found."""
    teacher = config.teacher
    try:
        return networks.find(str(teacher.model), teacher.checkpoint, config.dataset, teacher.root)
    except InputError:
        return None  # said where it is loaded


def own_values(config: TrainConfig, known: Known) -> dict[str, Any]:
    """What the teacher's file says, by the name of the key of teacher.*; None where it is what the student has."""
    keys, data = known.keys, config.data
    size = keys.get("data.image_size")
    own: dict[str, Any] = {name: keys.get(f"data.{name}") for name in ("mean", "std")}
    own = {name: value if value != list(getattr(data, name)) else None for name, value in own.items()}
    own["image_size"] = size if size != data.image_size else None
    if known.description is not None and own["image_size"] is not None:
        own["interpolation"] = known.description.data.interpolation
    if keys.get("student.model") == config.teacher.model:
        prefix = "student.args."
        args = {key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)}
        block = keys.get("student.block")
        own["args"] = {**args, **({} if block is None else {"block": block}), **config.teacher.args}
    return own


def _recorded(file: Path) -> Mapping[str, Any] | None:
    """teacher.* of a file of keys, None where there is none; damaged ones are told where they are used."""
    try:
        content = read_yaml(file) if file.is_file() else {}
    except (ConfigError, Unreadable, OSError):
        return None
    found = content.get("teacher")
    return found if isinstance(found, Mapping) else None


def _filled(config: C, own: Mapping[str, Any]) -> C:
    """`config` with the values of `own` for the keys of teacher.* that nobody gave. Raises InputError: damaged."""
    teacher = config.teacher
    values = {name: own.get(name) for name in OWN if getattr(teacher, name) is None and own.get(name) is not None}
    if own.get("args") and not teacher.args:
        values["args"] = own["args"]
    elif isinstance(own.get("args"), Mapping):
        values["args"] = {**own["args"], **teacher.args}
    if not values:
        return config
    try:
        made = type(teacher).model_validate(teacher.model_dump() | values)
    except ValueError as error:
        raise InputError(f"the teacher's own values are damaged: {' '.join(str(error).split())}") from None
    return config.model_copy(update={"teacher": made})


def _lines(config: TrainConfig, known: Known) -> list[str]:
    keys, teacher = known.keys, config.teacher
    own = {name: keys.get(f"data.{name}") for name in ("mean", "std", "image_size")}
    one = known.description
    by = f", predicts by {one.predictor.method}" if one and one.predictor else ""
    told = ", ".join(f"{name} {plain(value)}" for name, value in own.items() if value is not None)
    lines = [f"teacher {teacher.model}: {known.source} says {told}{by}"]
    for name, value in own.items():
        given = getattr(teacher, name)
        if given is not None and plain(given) != plain(value):
            lines.append(f"teacher.{name}={plain(given)} is given and used")
    return lines


def start_lines(config: TrainConfig) -> list[str]:
    """Where the file of student.checkpoint was trained otherwise than it goes on here. Raises InputError: damaged."""
    student = config.student
    known = known_of(student.checkpoint)
    if known is None or known.keys.get("student.model") != student.model:
        return []
    here = flatten(config.model_dump(mode="json", include={"student": {"args", "block"}, "data": {"mean", "std"}}))
    said = {key: known.keys.get(key) for key in {*here, *known.keys} if key in here or key.startswith("student.args.")}
    return [
        f"{known.source} says {key}={plain(value)}; the student goes on with {plain(here.get(key))}"
        for key, value in sorted(said.items())
        if key != "student.args" and plain(value) != plain(here.get(key))
    ]


def _hints(config: TrainConfig) -> list[str]:
    """Of weights that say nothing of themselves: the library's own values, used where the weights are its own."""
    teacher = config.teacher
    if ":" not in str(teacher.model) or teacher.checkpoint in (None, networks.UNTRAINED):
        return []
    library = networks.own_preprocessing(str(teacher.model), networks.AUTO)
    prepare = teacher_preprocess(config)
    used = {
        "mean": teacher.mean or (library["mean"] if teacher.checkpoint == networks.AUTO else config.data.mean),
        "std": teacher.std or (library["std"] if teacher.checkpoint == networks.AUTO else config.data.std),
        "image_size": prepare.image_size or config.data.image_size,
    }
    lines = []
    if teacher.checkpoint == networks.AUTO:
        told = ", ".join(f"{name} {plain(value)}" for name, value in used.items())
        lines.append(f"teacher {teacher.model}: {told}, {prepare.interpolation}")
    for name, value in used.items():
        if plain(value) != plain(library[name]):
            lines.append(
                f"warning: the library's weights of {teacher.model} want {name} {plain(library[name])}; "
                f"{plain(value)} is used (teacher.{name}=)"
            )
    return lines


def refuse_earlier(folder: Path, network: nn.Module) -> None:
    """Raises InputError for a run that an earlier version began with the student's own classifier of a teacher that
    predicts otherwise: it cannot go on with the same numbers."""
    begun = any((folder / name).exists() for name in STATES) and not (folder / FILE).exists()
    if begun and isinstance(network, PredictingNetwork):
        raise InputError(
            f"{folder} was begun with a part of its teacher, which predicts by more than its network: "
            "run.resume=never begins anew with all of it"
        )
