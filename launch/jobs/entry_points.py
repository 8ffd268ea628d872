"""The entry points a job can run: how their words are checked before anything is queued, and what a job calls."""

import glob
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def check_train(words: list[str]) -> Any:
    """The TrainConfig of `words`. Raises ConfigError with all problems."""
    from pipeline.builders.names import train_config

    return train_config(words)


def check_cache(words: list[str]) -> Any:
    """The CacheTeacherConfig of `words`."""
    from data_prep.cache_keys import read_config

    return read_config(words)


def check_evaluate(words: list[str]) -> Any:
    """The EvaluateConfig of `words`."""
    from pipeline.builders.checkpoint_config import EVALUATED, composed
    from pipeline.config import EvaluateConfig

    return composed(EvaluateConfig, words, EVALUATED)[0]


def check_benchmark(words: list[str]) -> Any:
    """The BenchmarkConfig of `words`."""
    from pipeline.measure.keys import benchmark_config

    return benchmark_config(words)


def train_folder(config: Any) -> Path:
    """Where a training writes."""
    from pipeline.builders.run import one_seed

    folder = Path(config.run.dir) / str(one_seed(config, 0).run.name)
    return folder.parent if config.seeds > 1 else folder


def train_marks(config: Any) -> tuple[str, ...]:
    """Checkpoints, of a first stage too; with seeds=N those of each seed."""
    from pipeline.engine.first_stage import FOLDER as FIRST_STAGE

    folder = glob.escape(str(train_folder(config).absolute())) + ("/*" if config.seeds > 1 else "")
    return f"{folder}/checkpoints/*.pt", f"{folder}/{FIRST_STAGE}/checkpoints/*.pt"


def cache_marks(config: Any) -> tuple[str, ...]:
    """Finished arrays and the parts of others."""
    folder = glob.escape(str(Path(config.cache.out).absolute()))
    return f"{folder}/view-*", f"{folder}/.*/view-*"


def no_marks(config: Any) -> tuple[str, ...]:
    """Begins anew at each start."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry point. folder: of its run; several_ranks: whether a group of processes runs it.

    marks: patterns of the files that a run writes as it goes, and goes on from when it is started again.
    """

    module: str
    check: Callable[[list[str]], Any]
    folder: Callable[[Any], Path]
    marks: Callable[[Any], tuple[str, ...]] = no_marks
    several_ranks: bool = True

    def load(self) -> Any:
        """The module with main, help_text and perhaps FAILURES."""
        return importlib.import_module(self.module)

    @property
    def script(self) -> str:
        """Its path in the tree."""
        return self.module.replace(".", "/") + ".py"


ENTRIES = {
    "train": Entry(module="pipeline.train", check=check_train, folder=train_folder, marks=train_marks),
    "cache_teacher": Entry(
        module="data_prep.cache_teacher",
        check=check_cache,
        folder=lambda c: Path(c.run.dir) / "cache_teacher",
        marks=cache_marks,
    ),
    "evaluate": Entry(module="pipeline.evaluate", check=check_evaluate, folder=lambda c: Path("runs") / "evaluate"),
    "benchmark": Entry(
        module="pipeline.benchmark",
        check=check_benchmark,
        folder=lambda c: Path(c.run.dir) / "benchmark",
        several_ranks=False,
    ),
}
