"""The stage between teachers and students: outputs written ahead of time, for all students that they are enough for."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.jobs.entry_points import ENTRIES
from launch.jobs.run_spec import RunSpec
from launch.sweeps.keys import CacheSpec
from launch.sweeps.runs import Plan, needs_teacher, reads_maps, words_of
from pipeline.builders.method import declared_by, method_kinds
from pipeline.config import ConfigError, DataConfig, TrainConfig
from pipeline.config.affects import without_later
from pipeline.contracts import Distiller, InputError, Signal
from pipeline.distillers import DISTILLERS

# Keys of data.* that change no record of a cache without further views. A list: folders of caches are named by a hash
# of the others, and a sweep that goes on must find its own.
FREE = {"root", "download", "workers", "eval_batch_size", "index", "eval_image_size", "eval_flip", "resize"}
OF_BATCHES = {"batch_size", "order"}
ENTRY = "cache_teacher"


def cacheable(config: TrainConfig) -> bool:
    """Whether a cache can teach this run; all others keep a live teacher, which gives the same numbers."""
    taught = needs_teacher(config) and not reads_maps(config) and not declared_by(config, "teacher_in_train_mode")
    return taught and config.teacher.source != "cached" and config.teacher.checkpoint is not None


def add_caches(plan: Plan, spec: CacheSpec) -> Plan:
    """The plan with a cache for each group of students whose teacher says the same; they read it. Raises ConfigError
    for caches that cannot be written."""
    groups: dict[str, list[RunSpec]] = {}
    for run in plan.students:
        if cacheable(run.config):
            groups.setdefault(group_key(run.config), []).append(run)
    caches: list[RunSpec] = []
    readers: dict[Path, RunSpec] = {}
    for key, runs in groups.items():
        cache = make_cache(plan.folder, key, runs, spec)
        caches.append(cache)
        readers |= {run.folder: reader(run, cache.folder) for run in runs}
    return replace(plan, caches=caches, students=[readers.get(run.folder, run) for run in plan.students])


def group_key(config: TrainConfig) -> str:
    """Equal for runs that may read one cache: the teacher, the pixels, and further views that the method asks for."""
    kinds = method_kinds(config)
    batches = any(has_views(config.method, name) for name in kinds)
    free = FREE | (set() if batches else OF_BATCHES)
    data = without_later(DataConfig, config.data.model_dump(mode="json", exclude=free))
    further: Any = [config.method, config.variant, config.method_args] if batches else None
    teacher = config.teacher.model_dump(mode="json", include={"model", "args", "source", "checkpoint", "prune"})
    sizes = config.teacher.model_dump(mode="json", include={"mean", "std", "image_size", "interpolation"})
    return json.dumps([config.dataset, teacher, sizes, data, config.runtime.amp, further], sort_keys=True)


def has_views(method: str, part: str) -> bool:
    """Whether `part` of a method asks for views besides the ordinary one, which the cache must hold then."""
    kind = DISTILLERS.get(part)
    return kind.streams is not Distiller.streams or kind.shown_streams is not Distiller.shown_streams


def make_cache(folder: Path, key: str, runs: list[RunSpec], spec: CacheSpec) -> RunSpec:
    """The run of data_prep/cache_teacher.py for these students."""
    first, network = runs[0], re.sub("[/:]", "-", str(runs[0].config.teacher.model))
    name = f"cache/{first.config.dataset}/{network}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    pooled = any(Signal.POOLED in kind.needs for run in runs for kind in method_kinds(run.config).values())
    views = spec.views or max(run.config.optim.epochs for run in runs)
    more = {"cache.out": str(folder / name), "cache.views": views, "cache.dtype": spec.dtype, "cache.pooled": pooled}
    words = [word for word in first.words if not word.startswith("run.name=")] + words_of(more)
    try:
        ENTRIES[ENTRY].check(words)
    except (ConfigError, InputError) as error:
        raise ConfigError([f"cache of {network}: {problem}" for problem in str(error).splitlines()]) from None
    place: dict[str, Any] = {"name": name, "folder": folder / name, "waits": first.waits}
    return RunSpec(words=tuple(words), config=first.config, entry=ENTRY, helper=True, **place)


def reader(run: RunSpec, cache: Path) -> RunSpec:
    """The run with cached outputs in place of its live teacher."""
    teacher = run.config.teacher
    more = {"source": "cached", "cached_from": teacher.source, "cache": str(cache)}
    given = [w for w in run.words if not w.startswith(tuple(f"teacher.{key}=" for key in more))]
    words = (*given, *words_of({f"teacher.{key}": value for key, value in more.items()}))
    config = run.config.model_copy(update={"teacher": teacher.model_copy(update=more)})
    return replace(run, words=words, config=config, waits=cache)
