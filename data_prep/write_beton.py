"""Write a data set as FFCV's .beton file, which data.loader=ffcv reads.

python data_prep/write_beton.py dataset=imagenet data.root=D split=train out=train.beton max_resolution=400 quality=90

train.beton.json beside it says what was written. The bytes do not depend on the number of threads.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pipeline import cli  # before torch: see pipeline/__init__.py

# isort: split
import torch
from pydantic import BeforeValidator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.builders.names import NAMES
from pipeline.builders.run import image_set
from pipeline.config import DataConfig, compose, describe
from pipeline.config.base import PathText, Section, Seed, Text, key
from pipeline.datasets.image_set import one_class
from pipeline.datasets.notes import note
from pipeline.engine.distributed.parallel import World
from pipeline.loaders.ffcv.writer import write_beton


def _none(value: Any) -> Any:
    return None if value == "none" else value


class WriteBetonConfig(Section):
    """Keys of data_prep/write_beton.py."""

    dataset: Text = key(..., "data set", affects="pixels")
    split: Literal["train", "test"] = key("train", "part of it", affects="pixels")
    out: PathText = key(..., "file to write", affects="place")
    max_resolution: Annotated[int | None, BeforeValidator(_none)] = key(
        400, "pixels of the longer side, or none = as the images are", affects="pixels", ge=1
    )
    quality: int | Literal["keep"] = key(
        90,
        "of the JPEGs, 1 to 100; keep = the bytes of JPEGs that need not be resized, 90 for the others",
        affects="pixels",
    )
    raw_fraction: float = key(
        0.0, "share of the images that are stored as pixels (about ten times as large)", affects="pixels", ge=0, le=1
    )
    seed: Seed = key(0, "draws which images these are", affects="pixels")
    workers: int = key(0, "threads, 0 = one per CPU", affects="speed", ge=0, le=1024)
    data: DataConfig = DataConfig()


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", WriteBetonConfig)


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(WriteBetonConfig, argv, names={"dataset": NAMES["dataset"]})
    alone = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)
    chosen = image_set(config.dataset, config.data, config.split, alone)
    alone_in = one_class(chosen)
    if alone_in is not None:
        note(f"{alone_in}: no run can be trained on it")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(config.out, total=len(chosen))
        manifest = write_beton(
            chosen,
            Path(config.out),
            max_resolution=config.max_resolution,
            quality=config.quality,
            raw_fraction=config.raw_fraction,
            workers=config.workers or os.cpu_count() or 1,
            seed=config.seed,
            progress=lambda done: bar.update(task, completed=done),
        )
    size = manifest.file_bytes / 1e6
    print(f"{config.out}: {manifest.samples} images of {manifest.data_set}/{manifest.split}, {size:.1f} MB")


if __name__ == "__main__":
    cli.run(main, help_text, {})
