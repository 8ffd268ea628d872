"""Configurations of entry points that get a checkpoint: what it says of itself below what the user says.

For entry points only.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline.builders import networks
from pipeline.builders.names import ALIASES, NAMES
from pipeline.builders.predictors import arguments_of, described_name, sight_of
from pipeline.config import ConfigError, EvaluateConfig, ExportConfig, compose, flatten
from pipeline.contracts import Distiller, InputError
from pipeline.run_folder.description import NAME, Description, Predictor
from pipeline.run_folder.student import NO_FILE, Known, checkpoint_in, given_keys, known_of, lines_of, plain, words_of
from pipeline.weights import read_origin

C = TypeVar("C", EvaluateConfig, ExportConfig)
EVALUATED = ("dataset", "student.model", "student.block", "data.loader")  # names of parts in keys of evaluate.py
SIZES = ("data.image_size", "data.eval_image_size", "data.resize")


class Found(NamedTuple):
    """What is known of a checkpoint: by itself or its run folder, or by the library whose weights it is."""

    known: Known | None
    library: dict[str, Any]

    def lines(self, config: EvaluateConfig | ExportConfig) -> list[str]:
        """What people are told of it, and of keys of theirs that win."""
        used = flatten(config.model_dump(mode="json"))
        if self.known is not None:
            return lines_of(self.known, used)
        return _library_lines(str(config.student.model), self.library, used, config.student.checkpoint == networks.AUTO)


def composed(schema: type[C], argv: list[str], keys: Iterable[str]) -> tuple[C, Found]:
    """The configuration of `argv` above what its checkpoint says, and what that is. keys: names of parts in it.

    Raises ConfigError, HelpRequested, and InputError for a damaged description.
    """
    aliases = ALIASES | {"checkpoint": "student.checkpoint", "weights": "student.weights"}
    names = {key: NAMES[key] for key in keys}

    def made(words: list[str]) -> C:
        return compose(schema, words + argv, aliases=aliases, names=names)

    given = checkpoint_in(argv)
    known = known_of(given)
    try:
        config = made(words_of(known, argv))
    except ConfigError as error:
        if given is None or not is_missing(given):
            raise
        # What is lacking would have been the checkpoint's to say. A job may name one that is still to be written.
        others: list[str] = [line for line in error.problems if not line.endswith("= must be given")]
        raise ConfigError([f"checkpoint={given}: no such file or folder", *others]) from None
    model, checkpoint = str(config.student.model), config.student.checkpoint
    library = networks.own_preprocessing(model, networks.AUTO) if checkpoint not in (None, networks.UNTRAINED) else {}
    if checkpoint == networks.AUTO and library:
        library["resize"] = networks.own_resize(model)
        config = made(_library_words(library, argv))
    elif checkpoint == networks.AUTO:
        known = known_of(_found(config))
        config = made(words_of(known, argv))
    return config, Found(known, library)


def is_missing(checkpoint: str) -> bool:
    """Whether it is to be a file or a run folder and is not there; what else is wrong with it is said by who reads."""
    try:
        Path(checkpoint).expanduser().lstat()
    except (FileNotFoundError, NotADirectoryError):
        return checkpoint not in (*NO_FILE, "null", "None")  # as words and files have null
    except (OSError, ValueError, RuntimeError):
        return False
    return False


def nameless(checkpoint: str | None) -> InputError:
    """Why a network without model= cannot be made, where its checkpoint does not say which it is."""
    if checkpoint is None or checkpoint in (networks.AUTO, networks.UNTRAINED):
        return InputError("give model=NAME and checkpoint=FILE (or a run folder, which knows its model)")
    try:
        read_origin(checkpoint)
    except InputError as error:
        return error
    return InputError(f"{checkpoint} does not say which network it holds: give model=NAME")


def _found(config: EvaluateConfig | ExportConfig) -> str | None:
    student = config.student
    try:
        file = networks.find(str(student.model), student.checkpoint, config.dataset or "", config.root)
    except InputError:
        return None  # said where it is loaded
    return None if file is None else str(file)


def _library_words(library: Mapping[str, Any], argv: list[str]) -> list[str]:
    given = given_keys(argv)
    said = ["data" in given or any(key in given for key in keys) for keys in (("data.mean",), ("data.std",), SIZES)]
    mean, std, sizes = said
    words = [] if mean else [f"data.mean={json.dumps(library['mean'])}"]
    words += [] if std else [f"data.std={json.dumps(library['std'])}"]
    of_size = [f"data.image_size={library['image_size']}", "data.eval_image_size=null"]
    return words if sizes else [*words, *of_size, f"data.resize={library['resize']}"]


def _library_lines(model: str, library: Mapping[str, Any], used: Mapping[str, Any], auto: bool) -> list[str]:
    """auto: they are the library's weights; else they come from a file that says nothing, and this is but a hint."""
    if not library:
        return []
    size = used["data.eval_image_size"] or used["data.image_size"]
    here = {"data.mean": used["data.mean"], "data.std": used["data.std"], "data.image_size": size}
    own = {"data.mean": library["mean"], "data.std": library["std"], "data.image_size": library["image_size"]}
    other = {key: value for key, value in own.items() if plain(value) != plain(here[key])}
    lines = []
    if auto:
        lines.append(f"{model}: its weights' own " + ", ".join(f"{key}={plain(value)}" for key, value in own.items()))
    whose = "these weights" if auto else f"the library's weights of {model}"
    for key, value in other.items():
        lines.append(f"warning: {whose} want {key}={plain(value)}; {plain(here[key])} is used")
    if auto and library["interpolation"] != "bilinear":
        lines.append(f"warning: these weights want {library['interpolation']} resizing; images are resized bilinearly")
    return lines


def origin_of(
    config: ExportConfig, found: Found, num_classes: int, predictor: Distiller | None
) -> dict[str, Any] | None:
    """What an exported file says of itself: the checkpoint's words, with what the user says; None where neither names a
    data set, whose pixels the network was made for."""
    if config.dataset is None:
        return None
    student, known = config.student, found.known
    earlier = known.description if known else None
    method = known.config.get("method") if known else None
    own: dict[str, Any] = {
        "dataset": config.dataset,
        "networks": config.networks,
        "model": str(student.model),
        "block": student.block,
        "args": student.args,
        "num_classes": num_classes,
        "data": sight_of(config.data),
        "predictor": None,
    }
    if predictor is not None:
        own["predictor"] = Predictor(method=described_name(predictor), module="")
    if earlier is not None:
        description = earlier.model_copy(update=own)
        method = earlier.method
    else:
        arguments = {} if predictor is None else arguments_of(predictor)
        method = described_name(predictor) if predictor is not None else method if isinstance(method, str) else None
        description = Description(**own, method=method, variant="default", method_args=arguments, class_names=())
    return {"dataset": config.dataset, "method": method, "student": student.model, NAME: description.plain()}


def say(lines: Iterable[str]) -> None:
    """Before the result, whose JSON is the last line; standard error is for what is wrong."""
    for line in lines:
        print(line, flush=True)
