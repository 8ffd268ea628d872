"""ImageNet (ILSVRC 2012): from its archives, or folders, to a checked tree.

python data_prep/imagenet.py out=DIR train=ILSVRC2012_img_train.tar val=ILSVRC2012_img_val.tar mapping=TABLE [workers=2]
python data_prep/imagenet.py out=DIR check=true

train: the archive of class archives, a folder of them, or an archive or a folder of class folders. val: an archive or a
folder of all images with mapping= (LOC_val_solution.csv, val.txt, or a wnid per line) or devkit= (its ground truth, and
the order of its classes as a text table; docs/data.md), or one of class folders. What was interrupted is gone on
with. All files are decoded and compared; DIR gets index files and report.json (dataset=imagenet data.root=DIR).
"""

import sys
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pydantic import BaseModel, ConfigDict, Field

from data_prep.check_tree import bars, check_tree
from data_prep.unpack_tree import (
    Place,
    Unit,
    by_parent,
    class_units,
    files_below,
    is_image,
    may_go_on,
    read_safely,
    unpack_split,
)
from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import PathText
from pipeline.contracts import InputError
from pipeline.datasets.archives import extract, members, safe_name
from pipeline.datasets.imagenet import FOLDERS, PUBLISHED, Classes
from pipeline.datasets.validation_labels import CLASS_TABLES, TABLES, find_table, wnids_of
from pipeline.datasets.walk import class_names_in


class ImagenetConfig(BaseModel):
    """Keys of data_prep/imagenet.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    out: PathText = Field(description="folder that gets, or has, train/ and val/")
    train: PathText | None = Field(None, description="ILSVRC2012_img_train.tar, or a folder")
    val: PathText | None = Field(None, description="ILSVRC2012_img_val.tar, or a folder")
    mapping: PathText | None = Field(None, description="table of the classes of the validation images")
    devkit: PathText | None = Field(None, description="ILSVRC2012_devkit_t12.tar.gz or its folder, instead of mapping")
    workers: int = Field(2, ge=1, le=1024, description="threads that unpack and decode")
    classes: Classes = Field("wnids", description="what class folders are called: wnids, numbers or names")
    check: bool = Field(False, description="check the tree that is there, without archives")


def val_units(source: Path, table: Path | None, wnids: list[str]) -> list[Unit]:
    """The one unit of the validation images. table: of their classes; None: they lie in class folders."""
    read = partial(files_below if source.is_dir() else members, source)
    place: Place = by_parent
    if table is not None:
        with read_safely(source), read() as found:
            named = [safe_name(member, source, None) for member in found if member.plain]
        names = sorted(name.name for name in named if is_image(name))
        if not names:
            raise InputError(f"{source} holds no image")
        place = partial(_by_table, wnids_of(names, table, wnids))
    return [Unit(folder="", source=source, read=read, place=place)]


def _by_table(wnid_of: dict[str, str], name: PurePosixPath) -> PurePosixPath | None:
    return PurePosixPath(wnid_of[name.name], name.name) if is_image(name) else None


def table_of(config: ImagenetConfig, scratch: Path) -> Path | None:
    """The table of classes that mapping= or devkit= names. Raises InputError when there is none."""
    if config.mapping is not None:
        return Path(config.mapping)
    if config.devkit is None:
        return None
    devkit = Path(config.devkit)
    if devkit.is_file():
        wanted = {*TABLES, *CLASS_TABLES}
        extract(devkit, scratch, lambda name: scratch / name.name if name.name in wanted else None)
        for beside in (devkit.with_name(name) for name in CLASS_TABLES if devkit.with_name(name).is_file()):
            (scratch / beside.name).write_bytes(beside.read_bytes())
    table = find_table([scratch if devkit.is_file() else devkit])
    if table is None:
        raise InputError(f"{devkit} holds none of {', '.join(TABLES)}")
    return table


def unpack(config: ImagenetConfig) -> None:
    """Brings train/ and val/ into config.out. Raises InputError, or OSError."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    train, val = (out / FOLDERS[split] for split in ("train", "test"))
    with bars() as watch, TemporaryDirectory() as scratch:
        if config.train is not None and not train.exists():
            units = class_units(Path(config.train))
            unpack_split(train, Path(config.train), units, config.workers, watch)
        if config.val is not None and not val.exists():
            wnids = class_names_in(train) if train.is_dir() else []
            units = val_units(Path(config.val), table_of(config, Path(scratch)), wnids)
            unpack_split(val, Path(config.val), units, config.workers, watch)


def prepare(config: ImagenetConfig) -> str:
    """The tree, checked; returns one line. Raises InputError, or OSError."""
    if config.train is None and config.val is None and not config.check:
        raise InputError("nothing to do: give train= and val=, or check=true for a tree that is there")
    unpack(config)
    return check_tree("imagenet", Path(config.out), PUBLISHED, config.workers, classes=config.classes)


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", ImagenetConfig)


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(ImagenetConfig, argv)
    with may_go_on(config.out):
        print(prepare(config))


if __name__ == "__main__":
    cli.run(main, help_text, {})
