"""The images that are measured: the user's, or generated ones; a part of a large set; a temporary .beton."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.builders.run import image_set
from pipeline.config import DataConfig
from pipeline.contracts import InputError
from pipeline.datasets.image_set import FileSet, ImageSet
from pipeline.datasets.synthetic_jpegs import write_jpeg_tree
from pipeline.engine.distributed.parallel import World
from pipeline.loaders.ffcv.writer import write_beton
from pipeline.measure.keys import GENERATED, BenchmarkConfig

TREE = {"classes": 10, "train_per_class": 100, "val_per_class": 10}
MAX_RESOLUTION, QUALITY = 400, 90  # of the temporary .beton: FFCV's usual ImageNet file
Note = Callable[[str], None]


def with_images(config: BenchmarkConfig, folder: Path, note: Note) -> BenchmarkConfig:
    """The configuration itself, or on a tree of JPEGs made in `folder` where it wants photographs and names no root."""
    data = config.data
    if data.root is not None or data.download or data.crop != "window":
        return config
    note(f"no data.root: making {TREE['classes'] * TREE['train_per_class']} JPEGs")
    root = folder / "jpegs"
    write_jpeg_tree(root, **TREE, workers=max(1, data.workers))
    return config.model_copy(
        update={"dataset": GENERATED, "data": data.model_copy(update={"root": str(root), "index": "off"})}
    )


def measured_set(config: BenchmarkConfig, world: World) -> ImageSet:
    """The training images on which loaders are compared: config.images of them, where they are files."""
    images = image_set(config.dataset, config.data, "train", world)
    return images if config.data.ffcv.train else part_of(images, config.images)


def part_of(images: ImageSet, count: int) -> ImageSet:
    """`count` of a set of files, evenly spread over it; the set itself where it is no larger, or count = 0."""
    if not isinstance(images, FileSet) or count == 0 or len(images) <= count:
        return images
    at = np.linspace(0, len(images) - 1, count, dtype=int)
    return FileSet(
        name=images.name,
        split=images.split,
        label_N=images.label_N[at],
        class_names=images.class_names,
        root=images.root,
        paths=tuple(images.paths[i] for i in at.tolist()),
    )


def write_temporary(images: ImageSet, path: Path, workers: int, note: Note) -> str:
    """A .beton of the set at `path`, as written for ImageNet. Raises InputError."""
    note(f"writing a temporary .beton of {len(images):,} images at {MAX_RESOLUTION} px, quality {QUALITY}")
    write_beton(images, path, max_resolution=MAX_RESOLUTION, quality=QUALITY, workers=max(1, workers))
    return str(path)


def with_betons(config: BenchmarkConfig, world: World, folder: Path, note: Note) -> DataConfig:
    """data.* with temporary .beton files of both splits where none are named. Raises InputError for a large set."""
    data, made = config.data, {}
    for split in ("train", "test"):
        if getattr(data.ffcv, split) is None:
            images = image_set(config.dataset, data, split, world)
            if config.images and len(images) > config.images:
                raise InputError(
                    f"{len(images):,} images are too many for a temporary .beton: give data.ffcv.train= and "
                    "data.ffcv.test= (data_prep/write_beton.py writes them)"
                )
            made[split] = write_temporary(images, folder / f"whole-{split}.beton", data.workers, note)
    return data.model_copy(update={"ffcv": data.ffcv.model_copy(update=made)})
