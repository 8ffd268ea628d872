"""From a configuration to parts. Only entry points import this: here all kinds of parts meet."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline import networks, views
from pipeline.config import DataConfig, RuntimeConfig, TrainConfig, validate_arguments
from pipeline.contracts import Distiller, InputError, Loader, Setting, Signal, TeacherSource
from pipeline.datasets import DATASETS, ImageSet
from pipeline.distillers import DISTILLERS
from pipeline.engine.loop import Parts
from pipeline.engine.optimizers import OPTIMIZERS
from pipeline.engine.parallel import World, autocast_factory, prepare_frozen, prepare_student
from pipeline.loaders import LOADERS
from pipeline.loaders.plan import Plan
from pipeline.models.blocks import BLOCKS, PLAIN
from pipeline.models.build import resolve
from pipeline.registry import Registry
from pipeline.teachers import TEACHERS
from pipeline.teachers.live import NoTeacher
from pipeline.teachers.preprocess import Preprocess

ALIASES = {"model": "student.model"}


def _registered(registry: Registry[Any]) -> Callable[[str, Mapping[str, Any]], str]:
    return lambda name, _: registry.canonical(name)


def _network(name: str, keys: Mapping[str, Any]) -> str:
    return resolve(name, keys.get("networks", "cifar"))


NAMES = {
    "dataset": _registered(DATASETS),
    "method": _registered(DISTILLERS),
    "student.model": _network,
    "student.block": lambda name, _: name if name == PLAIN else BLOCKS.canonical(name),
    "teacher.model": _network,
    "teacher.source": _registered(TEACHERS),
    "data.loader": _registered(LOADERS),
    "optim.name": _registered(OPTIMIZERS),
}


@contextlib.contextmanager
def seeded(seed: int, part: int) -> Iterator[None]:
    """Random numbers of one part of the run: the student's first weights do not depend on the teacher or the method."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1000 + part)
        yield


def image_set(name: str, data: DataConfig, split: str, world: World) -> ImageSet:
    """`split` of the data set; the leader goes first, so that one rank downloads and unpacks."""
    root = Path(data.root) if data.root else None
    loaded: list[ImageSet] = []

    def load(download: bool) -> None:
        loaded.append(DATASETS.get(name)(root=root, split=split, download=download))

    world.on_leader(lambda: load(data.download))
    if not loaded:
        load(False)
    return loaded[0]


def make_plan(data: DataConfig, runtime: RuntimeConfig, world: World, **differences: object) -> Plan:
    """What a loader must know; `differences` override the training defaults."""
    settings: dict[str, object] = {
        "batch_size": data.batch_size,
        "data_seed": data.seed,
        "rank": world.rank,
        "ranks": world.ranks,
        "train": True,
        "crop": data.crop,
        "padding": data.padding,
        "flip": data.flip,
        "rotation": data.rotation,
        "scale": data.scale,
        "ratio": data.ratio,
        "image_size": data.image_size,
        "resize": data.resize,
        "mean": data.mean,
        "std": data.std,
        "channels_last": runtime.channels_last,
        "workers": data.workers,
        "device": world.device,
    }
    return Plan(**{**settings, **differences})  # type: ignore[arg-type]


def build_loaders(config: TrainConfig, world: World) -> tuple[Loader, dict[str, Loader], ImageSet]:
    """(training loader, evaluation loaders by name, training set)."""
    data = config.data
    train_set = image_set(config.dataset, data, "train", world)
    test_set = image_set(config.dataset, data, "test", world)
    if train_set.num_classes != test_set.num_classes:
        raise InputError(f"{train_set.num_classes} classes in training, {test_set.num_classes} in test")
    make = LOADERS.get(data.loader)
    evaluation = {"train": False, "batch_size": data.eval_batch_size}
    held_out, kept = split_off(len(train_set), data.val_split, data.seed)
    train = make(train_set, make_plan(data, config.runtime, world, seed=config.seed, index_N=kept))
    loaders = {"test": make(test_set, make_plan(data, config.runtime, world, **evaluation))}
    if held_out is not None:
        loaders["val"] = make(train_set, make_plan(data, config.runtime, world, **evaluation, index_N=held_out))
    return train, loaders, train_set


def split_off(samples: int, count: int, seed: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(held-out positions, remaining positions), both ascending; (None, None) for count = 0."""
    if count == 0:
        return None, None
    if count >= samples:
        raise InputError(f"data.val_split={count} leaves nothing of {samples} training images")
    shuffled = views.order(seed, 0, samples, views.Stream.SPLIT)
    return np.sort(shuffled[:count]), np.sort(shuffled[count:])


def build_student(config: TrainConfig, num_classes: int) -> nn.Module:
    """The student with its first weights, or those of student.checkpoint."""
    student = config.student
    if student.model is None:
        raise InputError("no student: give pair=TEACHER-STUDENT, or model=")
    with seeded(config.seed, 0):
        return networks.make(
            student.model,
            num_classes=num_classes,
            image_size=config.data.image_size,
            checkpoint=student.checkpoint,
            dataset=config.dataset,
            root=config.teacher.root,
            options=student.args | {"block": student.block},
        )


def method_kind(config: TrainConfig) -> type[Distiller]:
    """The method's class. Raises InputError for a variant that it does not have."""
    kind = DISTILLERS.get(config.method)
    if config.variant != "default" and config.variant not in kind.variants:
        raise InputError(
            f"method {config.method} has no variant {config.variant!r} (known: {', '.join(kind.variants)})"
        )
    return kind


def make_setting(config: TrainConfig, student: nn.Module, teacher: TeacherSource, images: ImageSet) -> Setting:
    """What the method may know of the run."""
    network = getattr(teacher, "network", None)
    own_size = teacher_preprocess(config).image_size if network is not None else None
    size = config.data.image_size
    return Setting(
        student=networks.shapes_of(student, size),
        teacher=None if network is None else networks.shapes_of(network, own_size or size),
        classifier=None if network is None else network.classifier,
        norms=() if network is None else tuple(network.bn_before_relu()),
        label_N=torch.from_numpy(images.label_N),
        batch_size=config.data.batch_size,
        epochs=config.optim.epochs,
        seed=config.seed,
    )


def build_distiller(config: TrainConfig, setting: Setting) -> Distiller:
    """The method with its hyper-parameters."""
    kind = method_kind(config)
    with seeded(config.seed, 1):
        return kind(validate_arguments(kind.Config, config.method_args), setting, config.variant)


def teacher_preprocess(config: TrainConfig) -> Preprocess:
    """The teacher's own mean, std and resolution: as configured, else of its library's weights, else the student's."""
    data, teacher = config.data, config.teacher
    own = networks.own_preprocessing(str(teacher.model), teacher.checkpoint)
    return Preprocess(
        data.mean,
        data.std,
        teacher.mean or own.get("mean", data.mean),
        teacher.std or own.get("std", data.std),
        teacher.image_size or own.get("image_size"),
        teacher.interpolation or own.get("interpolation", "bilinear"),
    )


def build_teacher(
    config: TrainConfig,
    needs: Signal,
    num_classes: int,
    world: World,
    autocast: Callable[[], AbstractContextManager[object]],
) -> TeacherSource:
    """The source of the signals that the method needs; none is built for a method without needs."""
    if not needs:
        return NoTeacher()
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
                num_classes=num_classes,
                image_size=prepare.image_size or config.data.image_size,
                checkpoint=teacher.checkpoint,
                dataset=config.dataset,
                root=teacher.root,
                part="teacher",
                options=teacher.args,
            )
        return prepare_frozen(network, config.runtime, world.device)

    source = TEACHERS.get(teacher.source)(
        make_network, needs=needs, autocast=autocast, prepare=prepare.to(world.device)
    )
    missing = needs & ~source.provides
    if missing:
        raise InputError(
            f"{config.method} needs {missing.name}; teacher.source={teacher.source} provides {source.provides.name}: "
            "use teacher.source=live"
        )
    return source


def build(config: TrainConfig, world: World) -> tuple[Parts, int]:
    """All parts of a run, and the number of training images. Raises InputError."""
    kind = method_kind(config)
    train, evaluations, images = build_loaders(config, world)
    student = build_student(config, images.num_classes)
    autocast = autocast_factory(config.runtime, world.device)
    teacher = build_teacher(config, kind.needs, images.num_classes, world, autocast)
    distiller = build_distiller(config, make_setting(config, student, teacher, images))
    parts = Parts(
        student=prepare_student(student, config.runtime, world),
        distiller=distiller.to(world.device),
        teacher=teacher,
        train=train,
        evaluations=evaluations,
        autocast=autocast,
    )
    return parts, train.num_samples


def default_name(config: TrainConfig) -> str:
    """<dataset>/<method>/<pair>/seed<k>; a run without a pair is named by its networks, prefixes joined by a dash."""
    teacher, student = config.teacher.model, config.student.model
    pair = config.pair or (f"{teacher}-{student}" if teacher else student)
    return f"{config.dataset}/{config.method}/{re.sub('[/:]', '-', str(pair))}/seed{config.seed}"
