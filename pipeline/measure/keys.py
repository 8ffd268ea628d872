"""Keys of pipeline/benchmark.py, and what it assumes where nothing is said."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator

from pipeline.builders.names import ALIASES, config_of
from pipeline.config import ConfigError, RuntimeConfig, TrainConfig, layer_file
from pipeline.config.affects import keys_that_affect
from pipeline.config.base import NEVER, Affects, PathText, Text, key
from pipeline.datasets import DATASETS
from pipeline.registry import UnknownName

GENERATED = "folder"  # layout of the JPEGs that are made where the user gives none
IMAGES_A_ROUND = 3840  # 60 batches of 64
LEAST_STEPS = 3  # of a round, however long they take
# Weights do not matter to speed: the usual pairs, untrained.
PAIRS = {
    "cifar": {"pair": "resnet56-resnet20"},
    "tiny": {"pair": "resnet56-resnet20"},
    "imagenet": {"teacher.model": "resnet34", "student.model": "resnet18"},
}
PARTS = {
    "decode": {"decode"},
    "loader": {"decode", "loader"},
    "step": {"step"},
    "train": {"step", "train"},
    "all": {"decode", "loader", "step", "train"},
}


def _names(value: Any) -> Any:
    words = value.split(",") if isinstance(value, str) else value
    return tuple(str(word).strip() for word in words if str(word).strip()) if isinstance(words, list) else value


def _known_modes(modes: tuple[str, ...]) -> tuple[str, ...]:
    known = get_args(RuntimeConfig.model_fields["compile"].annotation)
    unknown = [mode for mode in modes if mode not in known]
    if unknown:
        raise ValueError(f"there is no mode {unknown[0]!r} (known: {', '.join(known)})")
    return modes


Modes = Annotated[tuple[Text, ...], BeforeValidator(_names), AfterValidator(_known_modes)]


class BenchmarkConfig(TrainConfig):
    """Keys of pipeline/benchmark.py: those of pipeline/train.py and these."""

    what: Literal["decode", "loader", "step", "train", "all"] = key("step", "part to measure", affects="numbers")
    steps: int | None = key(
        None, "batches a round; default as many as hold 3,840 images", affects="log", ge=2, le=NEVER
    )
    seconds: float = key(
        10.0, "a round ends after so many seconds, though not before its third batch", affects="log", gt=0, le=1e6
    )
    rounds: int = key(5, "rounds, in turn; their median is reported", affects="log", ge=1, le=1_000_000)
    loaders: Annotated[tuple[Text, ...], BeforeValidator(_names)] = key(
        (), "some of them, as torch,ffcv; default all", affects="numbers"
    )
    images: int = key(
        4000, "files of the set that loaders are measured on, evenly spread, 0 = all", affects="log", ge=0, le=NEVER
    )
    rows: Annotated[tuple[Text, ...], BeforeValidator(_names)] = key(
        (), "some rows of step and train, as 'bare loop,training loop'; default all", affects="numbers"
    )
    variants: bool = key(
        True, "take the step apart: without images, teacher, loss; forward, update, meters alone", affects="numbers"
    )
    compiles: Modes = key(
        (), "the training loop under these modes of runtime.compile too, as off,default", affects="numbers"
    )
    record: PathText | None = key(
        None, "regression file that the figures are added to, with hardware and versions", affects="place"
    )
    compare: PathText | None = key(
        None, "regression file whose last record of this hardware they are compared with", affects="place"
    )
    json_file: PathText | None = key(
        None, "file of all figures, - = standard output; `json=` is the same key", affects="place"
    )
    plot: PathText | None = key(
        None, "bar chart of the figures: FILE.png, .svg or .pdf (extra [plot])", affects="place"
    )

    @property
    def batches(self) -> int:
        """Batches of a round."""
        return self.steps or max(LEAST_STEPS, IMAGES_A_ROUND // self.data.batch_size)

    @property
    def parts(self) -> set[str]:
        """Which of decode, loader, step and train are measured."""
        return PARTS[self.what]


def own_keys(*kinds: Affects) -> set[str]:
    """Keys of the benchmark alone, not of a training, that affect these."""
    return {*keys_that_affect(BenchmarkConfig, *kinds)} - {*keys_that_affect(TrainConfig, *kinds)}


def with_defaults(words: list[str]) -> list[str]:
    """The command line behind what it leaves out: generated JPEGs, kd with an untrained pair of the usual networks.

    A configuration file (config=) says everything itself.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if "config" in given:
        return words
    assumed = {} if "dataset" in given else {"dataset": GENERATED, "data.batch_size": "64"}
    return [f"{name}={value}" for name, value in (assumed | _networks(given | assumed)).items()] + words


def benchmark_config(argv: list[str]) -> BenchmarkConfig:
    """The configuration of a command line of pipeline/benchmark.py."""
    return config_of(BenchmarkConfig, with_defaults(argv), aliases=ALIASES | {"json": "json_file"})


def _networks(given: Mapping[str, str]) -> dict[str, str]:
    if not PARTS.get(given.get("what", "step"), set()) & {"step", "train"}:
        return {}
    untrained = {"teacher.checkpoint": "none"}
    if {"pair", "model", "student.model", "teacher.model"} & set(given):
        return untrained
    try:
        layout = given.get("networks") or layer_file("dataset", DATASETS.canonical(given["dataset"])).get("networks")
    except (UnknownName, ConfigError):
        return {}  # refused below, with the known names
    return untrained | PAIRS.get(str(layout), {}) | ({} if "method" in given else {"method": "kd"})
