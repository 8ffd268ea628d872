"""From a configuration to parts. Only entry points import this: here all kinds of parts meet."""

import functools
import hashlib
import inspect
import operator
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pipeline import views
from pipeline.builders import networks
from pipeline.builders.method import (
    build_distiller,
    check_classifier,
    check_growth,
    in_form,
    make_setting,
    method_kinds,
    seeded,
)
from pipeline.builders.predictors import description_of, refuse_predictor
from pipeline.builders.teacher import Ask, accept_cache, build_teacher, overlap
from pipeline.config import DataConfig, RuntimeConfig, TrainConfig, layer_file
from pipeline.contracts import InputError, Loader, Signal, Stream
from pipeline.datasets import DATASETS, ArraySet, FileSet, ImageSet
from pipeline.datasets.image_set import check_classes
from pipeline.datasets.notes import note_once
from pipeline.datasets.replacing import ReplacingSet
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import World, autocast_factory, prepare_student
from pipeline.loaders import LOADERS
from pipeline.loaders.config import LoaderConfig


def image_set(name: str, data: DataConfig, split: str, world: World) -> ImageSet:
    """`split` of the data set; the leader goes first, so that one rank downloads, unpacks and writes an index.

    data.on_bad=replace holds for the training split: an evaluation without some of its images is another one.
    """
    root = Path(data.root) if data.root else None
    make = DATASETS.get(name)
    known = inspect.signature(make).parameters
    loaded: list[ImageSet] = []

    def load(download: bool, index: str) -> None:
        options = {"index": index, "classes": data.classes}
        options = {option: value for option, value in options.items() if option in known}
        loaded.append(make(root=root, split=split, download=download, **options))

    world.on_leader(lambda: load(data.download, data.index))
    if not loaded:
        load(False, "off" if data.index == "off" else "auto")
    images = loaded[0]
    _check_stated_classes(name, images)
    if isinstance(images, FileSet):
        images = replace(images, max_pixels=data.max_pixels)
    if data.on_bad == "replace" and split == "train" and isinstance(images, FileSet):
        return ReplacingSet(images)
    return images


def _check_stated_classes(name: str, images: ImageSet) -> None:
    """Raises InputError where the YAML states another number of classes. Folders may hold any part."""
    if not isinstance(images, ArraySet):
        return
    name = DATASETS.canonical(name)
    stated = layer_file("dataset", name).get("num_classes", images.num_classes)
    if stated != images.num_classes:
        there = f"the data set has {images.num_classes} class_names"
        raise InputError(f"configs/dataset/{name}.yaml: num_classes is {stated}, and {there}")


def loader_config(data: DataConfig, runtime: RuntimeConfig, world: World, **more: Any) -> LoaderConfig:
    """What a loader must know on this rank; `more`: of LoaderConfig."""
    place: dict[str, Any] = {"rank": world.rank, "ranks": world.ranks, "device": world.device}
    return LoaderConfig(data=data, channels_last=runtime.channels_last, **(place | more))


def build_sets(config: TrainConfig, world: World) -> tuple[ImageSet, ImageSet]:
    """(training set, test set)."""
    train_set, test_set = (image_set(config.dataset, config.data, split, world) for split in ("train", "test"))
    if train_set.num_classes != test_set.num_classes:
        raise InputError(f"{train_set.num_classes} classes in training, {test_set.num_classes} in test")
    for images in (train_set, test_set):
        check_classes(images)
    if isinstance(train_set, ArraySet) and isinstance(test_set, ArraySet):
        sides = [" x ".join(map(str, images.pixels_NHWC.shape[1:3])) for images in (train_set, test_set)]
        if sides[0] != sides[1]:
            size = f"data.image_size={config.data.image_size}"
            note_once(f"{train_set.name}: training images are {sides[0]}, test images {sides[1]}: resized to {size}")
    return train_set, test_set


def make_loader(images: ImageSet, config: LoaderConfig) -> Loader:
    """data.loader's, with its own keys. Raises InputError, ImportError."""
    kind = LOADERS.get(config.data.loader)
    options = getattr(config.data, kind.section).model_dump() if kind.section else {}
    loader: Loader = kind(images, config, **options)
    return loader


def build_loaders(
    config: TrainConfig,
    world: World,
    train_set: ImageSet,
    test_set: ImageSet,
    streams: Mapping[str, Stream],
    views_known: int | None = None,
) -> tuple[Loader, dict[str, Loader]]:
    """(training loader, evaluation loaders by name). streams: further views that the method asks for; views_known: how
    many the teacher knows, None = all."""
    data = config.data
    configured = functools.partial(loader_config, data, config.runtime, world)
    held_out, kept = split_off(len(train_set), data.val_split, data.seed)
    train = make_loader(train_set, configured(seed=config.seed, index_N=kept, streams=streams, views=views_known))
    loaders = {"test": make_loader(test_set, configured(train=False))}
    if held_out is not None:
        # An image that is replaced in training is an error where images are counted.
        counted = train_set.files if isinstance(train_set, ReplacingSet) else train_set
        loaders["val"] = make_loader(counted, configured(train=False, index_N=held_out))
    return train, loaders


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
        network = networks.make(
            student.model,
            num_classes=num_classes,
            image_size=config.data.image_size,
            checkpoint=student.checkpoint,
            weights=student.weights,
            dataset=config.dataset,
            root=config.teacher.root,
            options=student.args | {"block": student.block},
            other_sizes={config.data.smallest_size, config.data.test_size} - {config.data.image_size},
        )
    file = networks.find(student.model, student.checkpoint, config.dataset, config.teacher.root)
    refuse_predictor(file, network, config.data.image_size, "student.checkpoint")
    return network


def build(config: TrainConfig, world: World, sets: tuple[ImageSet, ImageSet] | None = None) -> tuple[Parts, int]:
    """All parts of a run, and the number of training images. sets: what build_sets gave. Raises InputError."""
    kinds = method_kinds(config)
    needs = functools.reduce(operator.or_, (kind.needs for kind in kinds.values()), Signal.NONE)
    images, test_images = sets or build_sets(config, world)
    student = build_student(config, images.num_classes)
    student = in_form(student, kinds, config.variant, config.data.image_size)
    autocast = autocast_factory(config.runtime, world.device)
    teacher = build_teacher(config, Ask(needs, images.num_classes, world, images.class_names))
    setting = make_setting(config, student, teacher, images)
    distiller = build_distiller(config, setting)
    check_classifier(config, distiller, setting, teacher)
    check_growth(config, distiller, teacher)
    train, evaluations = build_loaders(config, world, images, test_images, distiller.streams, teacher.views)
    accept_cache(config, teacher, images, train, distiller.shown_streams)
    student = prepare_student(student, config.runtime, world)
    overlap(config, teacher, student, distiller, world.device)
    parts = Parts(
        student=student,
        distiller=distiller.to(world.device),
        teacher=teacher,
        train=train,
        evaluations=evaluations,
        autocast=autocast,
        description=description_of(config, distiller, images.class_names).plain(),
    )
    return parts, train.num_samples


def default_name(config: TrainConfig) -> str:
    """<dataset>/<method>/<pair>/seed<k>; a run without a pair is named by its networks, prefixes joined by a dash."""
    teacher, student = config.teacher.model, config.student.model
    pair = config.pair or (f"{teacher}-{student}" if teacher else student)
    parts = config.dataset, config.method, re.sub("[/:]", "-", str(pair)), f"seed{config.seed}"
    return "/".join(map(_name, parts))


def one_seed(config: TrainConfig, number: int) -> TrainConfig:
    """The configuration of run `number` of seeds=N, with its name filled in."""
    runtime = config.runtime.model_copy(update={"parallel_seeds": 1})
    seeded = config.model_copy(update={"seed": config.seed + number, "seeds": 1, "runtime": runtime})
    name = config.run.name or default_name(seeded)
    if config.run.name and config.seeds > 1:
        name = f"{name}/seed{seeded.seed}"
    return seeded.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def _name(part: str) -> str:
    """`part` as a folder's name; systems take 255 bytes, and a combination may be of all methods."""
    told = hashlib.sha256(part.encode()).hexdigest()[:8]
    return part if len(part.encode()) <= 255 else f"{part[:60]}-{told}"
