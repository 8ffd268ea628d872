"""What a checkpoint says of its network: keys for entry points that get only its file, and the record of its run.

A file of ours describes itself; an older one is described by the run folder that it lies in.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import ConfigError, DataConfig, flatten, read_yaml, spelled
from pipeline.contracts import InputError
from pipeline.deployment.card import sha256_of
from pipeline.run_folder.description import NAME, Description, Sight, check_classes, parse
from pipeline.run_folder.record import CONFIG, RunRecord
from pipeline.utils.untrusted_files import Unreadable, read_object
from pipeline.weights import RUN_FILE, read_origin

CHECKPOINT = ("checkpoint", "student.checkpoint")
MODEL = ("model", "student.model")
NO_FILE = ("auto", "none")
INNER = ("checkpoints", "first_stage")  # folders of a run folder in which files of weights lie
SIGNS = ("environment.json", "metrics.jsonl", "checkpoints")  # beside the config.yaml of a run
SECTIONS = {"student": Mapping, "data": Mapping, "dataset": str, "method": str}  # of the config.yaml of a run
STUDENT_KEYS = ("student.model", "student.block", "networks")
OPTIONS = "student.args."
DATA_KEYS = ("dataset", *(f"data.{name}" for name in Sight.model_fields if name in DataConfig.model_fields))


class Known(NamedTuple):
    """What is known of a checkpoint. source: which file says it; keys: of a configuration, dotted; description: what
    the file says of itself, None for an older one in its run folder, whose config.yaml is `config`."""

    source: str
    keys: dict[str, Any]
    description: Description | None
    config: dict[str, Any]


def _run_config(folder: Path) -> dict[str, Any] | None:
    """The config.yaml of `folder`, None where there is none of ours. Raises InputError for a run's damaged one."""
    try:
        if not (folder / CONFIG).is_file():
            return None
        content = RunRecord(folder).content
    except OSError:
        return None
    except (ConfigError, Unreadable) as error:
        if any((folder / name).exists() for name in SIGNS):
            raise InputError(" ".join(str(error).split())) from None
        return None  # whatever lies there is no run of ours
    return content if all(isinstance(content.get(k), kind) for k, kind in SECTIONS.items()) else None


def _run_of(checkpoint: str | Path) -> tuple[Path, dict[str, Any]] | None:
    path = Path(checkpoint).expanduser().absolute()
    above = [path.parent.parent] if path.parent.name in INNER else []
    for folder in (path, path.parent, *above):
        content = _run_config(folder)
        if content is not None:
            return folder, content
    return None


def run_folder(checkpoint: str | Path) -> Path | None:
    """The run folder that `checkpoint` is or lies in, None for a file of others. Raises InputError: damaged."""
    found = _run_of(checkpoint)
    return None if found is None else found[0]


def known_of(checkpoint: str | Path | None) -> Known | None:
    """What a file or a run folder says of its network, None where nobody says anything.

    A file that cannot be read says nothing: whoever loads it says why. Raises InputError for a damaged description.
    """
    if checkpoint is None or str(checkpoint) in NO_FILE:
        return None
    try:
        origin = read_origin(checkpoint)
    except InputError:
        origin = {}
    path = Path(checkpoint)
    # Others' checkpoints may have an entry of that name; ours says which format it has.
    if isinstance(origin.get(NAME), Mapping) and "format" in origin[NAME]:
        description = parse(origin[NAME], f"{checkpoint}: its description")
        return Known(path.name or str(path), description.keys(), description, {})
    found = _run_of(path)
    if found is None:
        return None
    folder, content = found
    return Known(f"{folder.name}/config.yaml", flatten(content), None, content)


def given_keys(argv: list[str]) -> dict[str, str]:
    """The dotted keys that words and their config=FILE give, by the last value as it is written."""
    given: dict[str, str] = {}
    for word in argv:
        key, said, value = word.partition("=")
        found = spelled(key, value) if said else {}
        if "config" in found:
            try:
                file = flatten(read_yaml(Path(found["config"]).expanduser()))
            except (ConfigError, Unreadable):
                continue  # said where the keys are read
            given = {name: str(one) for name, one in file.items()} | given
        else:
            given |= found
    return given


def checkpoint_in(argv: list[str]) -> str | None:
    """The checkpoint that words ask for."""
    given = given_keys(argv)
    return next((given[key] for key in reversed(given) if key in CHECKPOINT), None)


def words_of(known: Known | None, argv: list[str]) -> list[str]:
    """key=value words that a checkpoint adds to `argv`: its network unless a model is given, how it looks at images.

    An older file in its run folder says how it looks at its own data set only. Keys that `argv` gives are left out.
    """
    if known is None:
        return []
    given, keys = given_keys(argv), known.keys
    wanted = [] if any(key in given for key in MODEL) else [*STUDENT_KEYS]
    if known.description is not None or given.get("dataset") in (None, keys.get("dataset")):
        wanted += DATA_KEYS
    if known.description is not None and _same_model(given, str(keys["student.model"])):
        wanted += STUDENT_KEYS[1:]
    if STUDENT_KEYS[1] in wanted:
        wanted += [key for key in keys if key.startswith(OPTIONS)]
    free = [key for key in wanted if not any(f"{key}.".startswith(f"{other}.") for other in given)]
    return [f"{key}={json.dumps(keys[key])}" for key in free if keys.get(key, {}) != {}]


def _same_model(given: Mapping[str, str], model: str) -> bool:
    """Whether the model that is given is the one that a file says, whose options then hold, too."""
    named = {given[key].lower() for key in MODEL if key in given}
    return bool(named & {model.lower(), model.rpartition("/")[2].lower()})


def lines_of(known: Known | None, used: Mapping[str, Any]) -> list[str]:
    """What people are told: what the checkpoint says, and where other values are used. used: dotted keys."""
    if known is None or "student.model" not in known.keys:
        return []
    keys, one = known.keys, known.description
    data = [f"mean {plain(keys.get('data.mean'))}", f"std {plain(keys.get('data.std'))}"]
    data += [f"{keys.get('data.eval_image_size') or keys.get('data.image_size')} pixels"]
    what = f"{keys['student.model']}, {keys.get('dataset')}" + (f" ({one.num_classes} classes)" if one else "")
    by = f", predicts by {one.predictor.method}" if one and one.predictor else ""
    lines = [f"{known.source}: {what}, {', '.join(data)}{by}"]
    options = sorted(key for key in {**keys, **used} if key.startswith(OPTIONS))
    if keys["student.model"] == used.get("student.model"):
        keys = dict.fromkeys(options) | keys  # an option that the file does not name is not set
        used = dict.fromkeys(options) | dict(used)
    for key in (*STUDENT_KEYS, *DATA_KEYS, *options):
        if key in keys and key in used and plain(keys[key]) != plain(used[key]):
            lines.append(f"{known.source} says {key}={plain(keys[key])}; {plain(used[key])} is used")
    return lines


def class_lines(known: Known | None, class_names: Sequence[str]) -> list[str]:
    """A warning where a data set's classes are called otherwise than the checkpoint's. Raises InputError where their
    order is another."""
    if known is None or known.description is None:
        return []
    told = check_classes(known.description.class_names, tuple(class_names), known.source)
    return [told] if told else []


def plain(value: Any) -> str:
    """A value as it is written on a command line."""
    return json.dumps(value, default=str).replace('"', "")


def read_record(checkpoint: str) -> dict[str, Any]:
    """Where weights come from: run (its summary), weights (last, best), commit, checkpoint and its SHA-256.

    Raises InputError for a damaged record beside the weights.
    """
    path, folder = Path(checkpoint).expanduser(), run_folder(checkpoint)
    file = path / RUN_FILE if path.is_dir() else path
    record: dict[str, Any] = {"run": {}, "commit": None, "weights": "as found in the file", "checkpoint": checkpoint}
    record["checkpoint_sha256"] = sha256_of(file) if file.is_file() else "not a file"
    if folder is None:
        return record
    run = RunRecord(folder)
    try:
        record["run"] = run.summary or {}
        commit = read_object(run.files.environment, finite=False).get("git") if run.files.environment.exists() else None
    except Unreadable as error:
        raise InputError(str(error)) from None
    record["commit"] = commit if isinstance(commit, str) else None
    record["weights"] = "those of the best epoch" if file.stem == "best" else "those of the last epoch"
    return record
