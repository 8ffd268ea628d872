"""From a configuration to parts. Only entry points import this: here all kinds of parts meet."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline import views
from pipeline.config import DataConfig, RuntimeConfig, TrainConfig, validate_arguments
from pipeline.contracts import Distiller, InputError, Loader, Signal, TeacherSource
from pipeline.datasets import DATASETS, ImageSet
from pipeline.distillers import DISTILLERS
from pipeline.engine.loop import Parts
from pipeline.engine.optimizers import OPTIMIZERS
from pipeline.engine.parallel import World, autocast_factory, prepare_frozen, prepare_student
from pipeline.loaders import LOADERS
from pipeline.loaders.plan import Plan
from pipeline.models import MODELS
from pipeline.teachers import TEACHERS
from pipeline.teachers.live import NoTeacher
from pipeline.weights import load_into

ALIASES = {"model": "student.model"}
NAMES = {
    "dataset": DATASETS.canonical,
    "method": DISTILLERS.canonical,
    "student.model": MODELS.canonical,
    "teacher.model": MODELS.canonical,
    "teacher.source": TEACHERS.canonical,
    "data.loader": LOADERS.canonical,
    "optim.name": OPTIMIZERS.canonical,
}
UNTRAINED = "none"


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
    if config.student.model is None:
        raise InputError("no student: give pair=TEACHER-STUDENT, or model=")
    with seeded(config.seed, 0):
        student = MODELS.get(config.student.model)(num_classes=num_classes)
    if config.student.checkpoint:
        load_into(student, Path(config.student.checkpoint))
    return student


def build_distiller(config: TrainConfig) -> Distiller:
    """The method with its hyper-parameters. Raises InputError for a variant that it does not have."""
    kind = DISTILLERS.get(config.method)
    if config.variant != "default" and config.variant not in kind.variants:
        raise InputError(
            f"method {config.method} has no variant {config.variant!r} (known: {', '.join(kind.variants)})"
        )
    with seeded(config.seed, 1):
        return kind(validate_arguments(kind.Config, config.method_args))


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
            f"method {config.method} needs teacher.checkpoint=FILE with weights of {teacher.model} "
            "(teacher.checkpoint=none runs an untrained one, for benchmarks)"
        )

    def make_network() -> nn.Module:
        with seeded(config.seed, 2):
            network = MODELS.get(str(teacher.model))(num_classes=num_classes)
        if teacher.checkpoint != UNTRAINED:
            load_into(network, Path(str(teacher.checkpoint)), part="teacher")
        return prepare_frozen(network, config.runtime, world.device)

    source = TEACHERS.get(teacher.source)(make_network, needs=needs, autocast=autocast)
    missing = needs & ~source.provides
    if missing:
        raise InputError(
            f"{config.method} needs {missing.name}; teacher.source={teacher.source} provides {source.provides.name}: "
            "use teacher.source=live"
        )
    return source


def build(config: TrainConfig, world: World) -> tuple[Parts, int]:
    """All parts of a run, and the number of training images. Raises InputError."""
    distiller = build_distiller(config)
    train, evaluations, images = build_loaders(config, world)
    student = build_student(config, images.num_classes)
    autocast = autocast_factory(config.runtime, world.device)
    teacher = build_teacher(config, distiller.needs, images.num_classes, world, autocast)
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
    """<dataset>/<method>/<pair>/seed<k>; a run without a pair is named by its networks."""
    teacher, student = config.teacher.model, config.student.model
    pair = config.pair or (f"{teacher}-{student}" if teacher else student)
    return f"{config.dataset}/{config.method}/{pair}/seed{config.seed}"
