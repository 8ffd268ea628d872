"""From a configuration to the source of the teacher's outputs. For entry points only."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline.builders import networks
from pipeline.builders.cache_key import identity_of, precision_of
from pipeline.builders.method import declared_by, in_form, method_kinds, seeded, teacher_preprocess
from pipeline.builders.predictors import predictor_of
from pipeline.config import TrainConfig
from pipeline.contracts import Distiller, InputError, Loader, Signal, Stream, TeacherSource
from pipeline.datasets import ImageSet
from pipeline.engine.distributed.parallel import World, autocast_factory, place, prepare_frozen
from pipeline.models.folding import fold_norms
from pipeline.models.predicting import PredictingNetwork
from pipeline.run_folder.student import class_lines, known_of
from pipeline.teachers import TEACHERS
from pipeline.teachers.beside import Beside, SideStream
from pipeline.teachers.cached import CachedTeacher
from pipeline.teachers.live import LiveTeacher, NoTeacher

UNTRAINED = "untrained"  # attribute of a teacher's network: why its classifier must not be used, None where it may


class Ask(NamedTuple):
    """What a run asks of its teacher: signals, classes of the data set and their names; and where it runs."""

    needs: Signal
    num_classes: int
    world: World
    class_names: tuple[str, ...] = ()


def build_teacher(config: TrainConfig, ask: Ask) -> TeacherSource:
    """The source of the signals that the method needs; none is built for a method without needs."""
    if not ask.needs:
        return NoTeacher()
    kind = TEACHERS.get(config.teacher.source)
    source: TeacherSource = (
        build_cached(config, ask) if kind.recorded else build_live(config, ask, config.teacher.source)
    )
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
        tf32=ask.world.tf32,
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
    tf32 = "off" if config.runtime.tf32 == "off" else None  # asked for: no record may be rounded to it either
    teacher.accept(identity_of(config, **found, tf32=tf32))


def build_live(config: TrainConfig, ask: Ask, source: str) -> TeacherSource:
    """A source that runs the teacher's network."""
    teacher, device = config.teacher, ask.world.device
    if teacher.model is None:
        raise InputError(f"method {config.method} needs a teacher: give pair=TEACHER-STUDENT, or teacher.model=")
    if teacher.checkpoint is None:
        raise InputError(
            f"method {config.method} needs teacher.checkpoint=FILE with weights of {teacher.model} (auto: published "
            "ones; none: an untrained teacher, for benchmarks)"
        )
    prepare = teacher_preprocess(config)
    image_size = prepare.image_size or config.data.image_size
    kind = TEACHERS.get(source)
    options = getattr(teacher, kind.section).model_dump() if kind.section else {"batch_statistics": None}
    if options["batch_statistics"] is None:
        options["batch_statistics"] = declared_by(config, "teacher_in_train_mode")
    precision = precision_of(config)
    fold = precision["fold"]
    if fold and options["batch_statistics"] and kind.section is None:
        raise InputError(f"teacher.fold=on: method {config.method} runs its teacher on the statistics of each batch")

    def ready(network: nn.Module) -> nn.Module:
        if fold:
            size = (1, 3, image_size, image_size)
            network = fold_norms(network, torch.zeros(size, device=device, dtype=next(network.parameters()).dtype))
        return prepare_frozen(network, config.runtime, device)

    built: TeacherSource = kind(
        functools.partial(_network, config, ask, image_size),
        needs=ask.needs,
        autocast=autocast_factory(config.runtime.model_copy(update={"amp": precision["amp"]}), device),
        prepare=prepare.to(device),
        ready=ready,
        **options,
    )
    return built


def teacher_network(
    config: TrainConfig, num_classes: int, image_size: int, other_sizes: Iterable[int] = ()
) -> nn.Module:
    """The network that teacher.* names, with its own weights. other_sizes: as in networks.make. Raises InputError."""
    teacher = config.teacher
    return networks.make(
        str(teacher.model),
        num_classes=num_classes,
        image_size=image_size,
        checkpoint=teacher.checkpoint,
        dataset=config.dataset,
        root=teacher.root,
        part="teacher",
        weights=teacher.weights,
        key="teacher.weights",
        options=teacher.args,
        other_sizes=other_sizes,
    )


def _network(config: TrainConfig, ask: Ask, image_size: int) -> nn.Module:
    """The teacher's network with its own weights, in the form that the method works on, on the device.

    image_size: pixels that it sees.
    """
    data = config.data
    own_size = teacher_preprocess(config).image_size
    with seeded(config.seed, 2):
        others = () if own_size else {data.smallest_size} - {data.image_size}
        network = teacher_network(config, ask.num_classes, image_size, others)
    network = _whole(config, ask, network, image_size)
    if declared_by(config, "teacher_probed"):
        with seeded(config.seed, 3), torch.no_grad():
            network.train()(torch.randn(1, 3, data.image_size, data.image_size))
    network = in_form(network, method_kinds(config), config.variant, image_size)
    return place(network, config.runtime, ask.world.device).eval()


def _whole(config: TrainConfig, ask: Ask, network: nn.Module, image_size: int) -> nn.Module:
    """`network` with all that its file predicts by; a library's classifier that is untrained may not be asked for.

    Raises InputError where the method wants what such a teacher has not, or the file's classes are in another order.
    """
    teacher = config.teacher
    setattr(network, UNTRAINED, networks.new_classifier(str(teacher.model), teacher.checkpoint, ask.num_classes))
    file = networks.find(str(teacher.model), teacher.checkpoint, config.dataset, teacher.root)
    for line in class_lines(known_of(file), ask.class_names):
        if ask.world.leader:
            print(line, flush=True)
    predictor = predictor_of(file, network, image_size)
    if predictor is None:
        return network
    missing = ask.needs & (Signal.POOLED | Signal.WEIGHTS)
    formed = [name for name, kind in method_kinds(config).items() if kind.forms]
    if missing or formed:
        wanted = missing.name if missing else "class maps"
        raise InputError(
            f"method {config.method} wants {wanted} of its teacher, and {file} predicts by "
            f"{type(predictor).__name__}, through which only logits and the network's own maps can be had"
        )
    return PredictingNetwork(network, predictor)


def overlap(
    config: TrainConfig, teacher: TeacherSource, student: nn.Module, distiller: Distiller, device: torch.device
) -> None:
    """teacher.stream: from now on the teacher's forward runs beside the student's, on CUDA.

    Where something may read the teacher's outputs before the student has run, or the student is compiled by itself,
    all stays as it is.
    """
    wanted = config.teacher.stream and device.type == "cuda"
    if wanted and isinstance(teacher, LiveTeacher) and reads_after_student(config, distiller):
        run_beside(teacher, student, SideStream(device))


def reads_after_student(config: TrainConfig, distiller: Distiller) -> bool:
    """Whether nothing looks at the teacher's outputs before the student's forward, and that is plain Python."""
    asks = any(kind.extra_batches is not Distiller.extra_batches for kind in method_kinds(config).values())
    before = distiller.teacher_pass or distiller.first_stage is not None
    return config.runtime.compile in ("off", "graph") and not asks and not before


def run_beside(teacher: LiveTeacher, student: nn.Module, beside: Beside) -> None:
    """The losses, which come after `student`, wait for `teacher`; the student's forward does not."""
    teacher.beside, teacher.waits = beside, True
    student.register_forward_hook(lambda *_: beside.join())
