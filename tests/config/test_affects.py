"""What keys affect is said once, and everything that hangs on it asks there."""

from typing import Any

import pytest

from data_prep.cache_keys import CacheTeacherConfig
from data_prep.write_beton import WriteBetonConfig
from launch.jobs.cluster import ClusterConfig
from launch.sweeps.keys import SweepConfig
from pipeline.config import DataConfig, EvaluateConfig, ExportConfig, TrainConfig, flatten
from pipeline.config.affects import before, fields_of, in_fingerprint, keys_that_affect, mark
from pipeline.config.base import Section, key
from pipeline.config.words import known_keys
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.regression import MANNER, OUTPUTS
from pipeline.pictures.keys import VisualizeConfig
from pipeline.run_folder.record import PLACES
from pipeline.run_folder.same_numbers import FREE
from pipeline.run_folder.student import DATA_KEYS

KINDS = ("numbers", "pixels", "speed", "place", "log")
SCHEMAS = (
    *(TrainConfig, EvaluateConfig, ExportConfig, BenchmarkConfig, VisualizeConfig, CacheTeacherConfig),
    *(WriteBetonConfig, ClusterConfig, SweepConfig),
)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_key_says_what_it_affects(schema: type[Section]) -> None:
    assert list(fields_of(schema)) == known_keys(schema)
    assert {mark(field)["affects"] for field in fields_of(schema).values()} <= {*KINDS}
    assert sum(len(keys_that_affect(schema, kind)) for kind in KINDS) == len(known_keys(schema))  # type: ignore[arg-type]


def test_a_key_that_does_not_say_it_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="affects"):
        key(0, "a key")  # type: ignore[call-arg]


def test_fingerprints_leave_out_what_they_always_left_out() -> None:
    aside = {
        *("pair", "seeds", "optim.accumulate", "teacher.cache", "teacher.cache_on_device", "teacher.verify"),
        *("teacher.stream", "data.root", "data.download", "data.loader", "data.workers", "data.eval_batch_size"),
        *("data.index", "data.read_timeout"),
    }
    sections = ("run.", "log.", "runtime.", "data.dali.", "data.ffcv.")
    known = known_keys(TrainConfig)
    assert {*known} - {*in_fingerprint(TrainConfig)} == aside | {name for name in known if name.startswith(sections)}
    config = TrainConfig(dataset="synthetic")
    assert {*flatten(config.numbers())} == {*in_fingerprint(TrainConfig), "pair"} - {"data.max_pixels"}


def test_lists_that_are_queries_now() -> None:
    assert set(keys_that_affect(DataConfig, "pixels")) == {
        *("crop", "padding", "flip", "rotation", "scale", "ratio", "image_size", "resize", "on_bad"),
        *("seed", "mean", "std", "min_image_size", "grow_epochs"),
    }
    assert {"json", "json_file", "plot", "record", "compare"} == OUTPUTS
    assert {"rounds", "steps", "seconds", "images"} == MANNER - OUTPUTS
    assert (
        *("dataset", "data.mean", "data.std", "data.image_size", "data.eval_image_size", "data.crop", "data.resize"),
        "data.eval_flip",
    ) == DATA_KEYS
    assert {*TrainConfig(dataset="synthetic").numbers(), *flatten(TrainConfig(dataset="x").numbers())} & PLACES == {
        *("seed", "data.seed", "teacher.root", "pair"),  # pair is None there
    }
    assert FREE == ("method_args", "teacher.args", "student.args")
    later: dict[str, Any] = {"data.classes": "wnids", "data.max_pixels": 89_478_485}
    assert before(TrainConfig) == later | {"teacher.weights": "plain", "student.weights": "plain"}
