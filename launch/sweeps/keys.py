"""Keys of a sweep: of its file, and of the command line that runs it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from launch.jobs.cluster import ClusterConfig
from pipeline.builders.names import ALIASES
from pipeline.config import flatten
from pipeline.config.base import Section, Seed, Text, key
from pipeline.pictures.keys import Words

Keys = dict[str, Any]  # keys of train.py, dotted


def dotted(value: Any) -> Any:
    """Keys in any nesting as dotted ones, with the names that the schema has."""
    if not isinstance(value, Mapping):
        return value
    return {ALIASES.get(name, name): item for name, item in flatten({str(k): v for k, v in value.items()}).items()}


def _listed(value: Any) -> Any:
    """A single entry as a list of one."""
    return value if isinstance(value, list) else [value]


def _axes(value: Any) -> Any:
    found = dotted(value)
    if not isinstance(found, dict):
        return found
    return {name: [dotted(one) for one in _listed(item)] for name, item in found.items()}


def _mappings(value: Any) -> Any:
    return [dotted(item) for item in _listed(value)]


Dotted = Annotated[Keys, BeforeValidator(dotted)]
Mappings = Annotated[list[Keys], BeforeValidator(_mappings)]


class CacheSpec(Section):
    """How the teachers' outputs are written ahead of time."""

    views: int | None = key(
        None, "views to store; default the largest optim.epochs of the students", affects="numbers", ge=1
    )
    dtype: Literal["fp32", "fp16", "int8"] = key("fp32", "of the logits", affects="numbers")


class SweepFile(Section):
    """Keys of configs/sweep/NAME.yaml; the command line may give any of them."""

    title: Text = key("Sweep", "heading of table and report", affects="log")
    set: Dotted = key({}, "keys of train.py for all runs, teachers too where they apply", affects="numbers")
    axes: Annotated[dict[str, list[Any]], BeforeValidator(_axes)] = key(
        {}, "key of train.py -> values; an entry may be a mapping of keys that go together", affects="numbers"
    )
    exclude: Mappings = key(
        [], "mappings of key -> value or values; runs that match all keys of one are left out", affects="numbers"
    )
    include: Mappings = key([], "further runs, each a mapping of keys", affects="numbers")
    seeds: int = key(1, "runs of each cell", affects="numbers", ge=1)
    first_seed: Seed = Field(default=0, description="first seed")
    table: Annotated[list[Text], BeforeValidator(_listed)] = key(
        [],
        "tables of configs/published.yaml; axes.method and axes.pair then choose among their cells",
        affects="numbers",
    )
    teachers: Literal["given", "auto", "train"] = key(
        "given",
        "given by teacher.checkpoint; auto: published weights; train: each network once per data set, first",
        affects="numbers",
    )
    teacher_set: Dotted = key({}, "keys of train.py for the training of teachers", affects="numbers")
    words: Dotted = key(
        {}, "keys of train.py that win over all others, as those of the command line do", affects="numbers"
    )
    cache: CacheSpec | None = key(
        None,
        "write the teachers' outputs first, for methods without maps: cache.views=N cache.dtype=fp32|fp16|int8",
        affects="numbers",
    )


class SweepKeys(Section):
    name: Text = key(..., "name in configs/sweep, or a file; `sweep=` is the same key", affects="numbers")
    dry: bool = key(False, "print what would be done, send nothing", affects="log")
    most: int = key(500, "runs that need no question", affects="log", ge=1)
    pictures: Words | None = key(
        ("curves", "speed", "agreement", "calibration", "correlation", "tsne"),
        "of report.html; null = no report",
        affects="log",
    )
    images: int = key(2000, "test images that the report's networks are run on, 0 = all", affects="log", ge=0)


class SweepConfig(Section):
    """Keys of launch/sweep.py besides those of the sweep's file and of train.py."""

    sweep: SweepKeys
    cluster: ClusterConfig = ClusterConfig()
    follow: bool = key(
        False, "stay until all runs have ended, then write the table (cluster=local always does)", affects="log"
    )


class Asked(Section):
    """The whole command line. words: keys of train.py, which win over everything in the file."""

    launcher: SweepConfig
    file: SweepFile
    words: Keys
