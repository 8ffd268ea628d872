"""Tiny-ImageNet: from its archive to a checked tree.

python data_prep/tiny_imagenet.py out=DIR archive=tiny-imagenet-200.zip [workers=2]
python data_prep/tiny_imagenet.py out=DIR check=true

The archive comes from http://cs231n.stanford.edu/tiny-imagenet-200.zip. What was interrupted is gone on with. All files
are decoded and compared; DIR/tiny-imagenet-200 gets index files and report.json (dataset=tiny_imagenet data.root=DIR).
"""

import sys
from functools import partial
from pathlib import Path, PurePosixPath

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pydantic import BaseModel, ConfigDict, Field

from data_prep.check_tree import bars, check_tree
from data_prep.unpack_tree import Unit, may_go_on, unpack_split
from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import PathText
from pipeline.contracts import InputError
from pipeline.datasets.archives import members
from pipeline.datasets.entries import hides
from pipeline.datasets.tiny_imagenet import ARCHIVE, WNIDS

PUBLISHED = {"train": 100_000, "test": 10_000}


class TinyConfig(BaseModel):
    """Keys of data_prep/tiny_imagenet.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    out: PathText = Field(description="folder that gets, or has, tiny-imagenet-200/")
    archive: PathText | None = Field(None, description="tiny-imagenet-200.zip")
    workers: int = Field(2, ge=1, le=1024, description="threads that decode")
    check: bool = Field(False, description="check the tree that is there, without an archive")


def place(name: PurePosixPath) -> PurePosixPath | None:
    """Inside the one folder of the archive; hidden files nowhere. Raises InputError for a member beside it."""
    if hides(name):
        return None
    if name.parts[0] != ARCHIVE.folder:
        raise InputError(f"{str(name)!r} lies outside {ARCHIVE.folder}/: no archive of Tiny-ImageNet")
    return PurePosixPath(*name.parts[1:])


def prepare(config: TinyConfig) -> str:
    """The tree, checked; returns one line. Raises InputError, or OSError."""
    out = Path(config.out)
    tree = out / ARCHIVE.folder
    if config.archive is not None:
        out.mkdir(parents=True, exist_ok=True)
        packed = Path(config.archive)
        unit = Unit(folder="", source=packed, read=partial(members, packed), place=place)
        with bars() as watch:
            unpack_split(tree, packed, [unit], config.workers, watch)
    elif not config.check:
        raise InputError("nothing to do: give archive=tiny-imagenet-200.zip, or check=true for a tree that is there")
    root = tree if (tree / WNIDS).is_file() else out
    return check_tree("tiny_imagenet", root, PUBLISHED, config.workers)


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", TinyConfig)


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(TinyConfig, argv)
    with may_go_on(config.out):
        print(prepare(config))


if __name__ == "__main__":
    cli.run(main, help_text, {})
