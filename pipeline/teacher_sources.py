"""From a configuration to the source of the teacher's outputs. For entry points only."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline import networks
from pipeline.cache_identity import identity_of
from pipeline.config import TrainConfig
from pipeline.contracts import InputError, Loader, Signal, Stream, TeacherSource
from pipeline.datasets import ImageSet
from pipeline.engine.parallel import World, prepare_frozen
from pipeline.methods import declared_by, in_form, method_kinds, seeded, teacher_preprocess
from pipeline.teachers import TEACHERS
from pipeline.teachers.cached import CachedTeacher
from pipeline.teachers.live import NoTeacher


class Ask(NamedTuple):
    """What a run asks of its teacher: signals, classes of the data set; and where and under which autocast it runs."""

    needs: Signal
    num_classes: int
    world: World
    autocast: Callable[[], AbstractContextManager[object]]


def build_teacher(config: TrainConfig, ask: Ask) -> TeacherSource:
    """The source of the signals that the method needs; none is built for a method without needs."""
    if not ask.needs:
        return NoTeacher()
    kind = TEACHERS.get(config.teacher.source)
    source = build_cached(config, ask) if kind.recorded else build_live(config, ask, config.teacher.source)
    missing = ask.needs & ~source.provides
    if missing:
        raise InputError(
            f"{config.method} needs {missing.name}; teacher.source={config.teacher.source} provides "
            f"{source.provides.name}: use teacher.source=live"
        )
    return source


def build_cached(config: TrainConfig, ask: Ask) -> CachedTeacher:
    """Records of another source, which is built too where it has a checkpoint: for checks, and what no cache holds."""
    teacher = config.teacher
    if teacher.cache is None:
        raise InputError("teacher.source=cached needs teacher.cache=DIR (data_prep/cache_teacher.py writes one)")
    if declared_by(config, "teacher_in_train_mode"):
        raise InputError(
            f"method {config.method}, variant {config.variant}, runs its teacher on the statistics of each batch, "
            "which depend on the run: no cache holds that; use teacher.source=live or another variant"
        )
    source = CachedTeacher(
        Path(teacher.cache),
        functools.partial(build_live, config, ask, teacher.cached_from) if teacher.checkpoint else None,
        ask.world.device,
        verify=teacher.verify,
        on_device={"auto": None, "on": True, "off": False}[teacher.cache_on_device],
        keeps_live=any(kind.chooses_images for kind in method_kinds(config).values()),
        pooled=Signal.POOLED in ask.needs,
    )
    layout = source.reader.layout
    if layout.classes != ask.num_classes:
        raise InputError(f"teacher cache {teacher.cache}: {layout.classes} classes, the data set has {ask.num_classes}")
    if source.lossy and not teacher.allow_lossy:
        raise InputError(
            f"teacher cache {teacher.cache} holds the {layout.k} largest classes only, and method {config.method} "
            "needs all: write another one, or teacher.allow_lossy=true"
        )
    return source


def accept_cache(
    config: TrainConfig, teacher: TeacherSource, images: ImageSet, loader: Loader, streams: Mapping[str, Stream]
) -> None:
    """Refuses records that are not of what this run shows: InputError. Nothing to do for a live teacher."""
    if not isinstance(teacher, CachedTeacher):
        return
    if not loader.replayable:
        raise InputError(f"data.loader={config.data.loader} cannot show the views of a cache again")
    source = config.teacher.cached_from
    found = {"source": source, "network": teacher.network, "images": images, "loader": loader, "streams": streams}
    teacher.accept(identity_of(config, **found))


def build_live(config: TrainConfig, ask: Ask, source: str) -> TeacherSource:
    """A source that runs the teacher's network."""
    teacher = config.teacher
    if teacher.model is None:
        raise InputError(f"method {config.method} needs a teacher: give pair=TEACHER-STUDENT, or teacher.model=")
    if teacher.checkpoint is None:
        raise InputError(
            f"method {config.method} needs teacher.checkpoint=FILE with weights of {teacher.model} (auto: published "
            "ones; none: an untrained teacher, for benchmarks)"
        )
    prepare = teacher_preprocess(config)

    def make_network() -> nn.Module:
        with seeded(config.seed, 2):
            network = networks.make(
                str(teacher.model),
                num_classes=ask.num_classes,
                image_size=prepare.image_size or config.data.image_size,
                checkpoint=teacher.checkpoint,
                dataset=config.dataset,
                root=teacher.root,
                part="teacher",
                options=teacher.args,
                other_sizes=() if prepare.image_size else {config.data.smallest_size} - {config.data.image_size},
            )
        if declared_by(config, "teacher_probed"):
            with seeded(config.seed, 3), torch.no_grad():
                network.train()(torch.randn(1, 3, config.data.image_size, config.data.image_size))
        network = in_form(network, method_kinds(config), config.variant, prepare.image_size or config.data.image_size)
        return prepare_frozen(network, config.runtime, ask.world.device)

    kind = TEACHERS.get(source)
    options = getattr(teacher, kind.section).model_dump() if kind.section else {"batch_statistics": None}
    if options["batch_statistics"] is None:
        options["batch_statistics"] = declared_by(config, "teacher_in_train_mode")
    prepare = prepare.to(ask.world.device)
    built: TeacherSource = kind(make_network, needs=ask.needs, autocast=ask.autocast, prepare=prepare, **options)
    return built
