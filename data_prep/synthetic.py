"""Write the synthetic set, or generated JPEGs that cost what ImageNet's cost, to a folder.

python data_prep/synthetic.py out=DIR
python data_prep/synthetic.py what=jpegs out=DIR [classes=10 train_per_class=100 val_per_class=10 seed=0 workers=2]

what=set: DIR/synthetic-v1.npz is the set (dataset=synthetic data.root=DIR reads it), DIR/synthetic-v1.png shows it.
what=jpegs: DIR/train/CLASS/*.JPEG and DIR/val/CLASS/*.JPEG (dataset=imagenet, or folder, data.root=DIR).
"""

import io
import sys
from pathlib import Path
from typing import Literal

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import PathText
from pipeline.contracts import unwritten
from pipeline.datasets.synthetic import FILE, to_arrays
from pipeline.datasets.synthetic_jpegs import MOST_CLASSES, write_jpeg_tree
from pipeline.utils.atomic import write_atomically


def write(out: Path) -> Path:
    """Writes the set and its contact sheet into `out`; returns the path of the set. Raises InputError, NotWritten."""
    target = out / FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        arrays = to_arrays()
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_atomically(target, content.getvalue())
        sheet = contact_sheet(arrays["test_pixels_NHWC"], arrays["test_label_N"])
        shown = io.BytesIO()
        Image.fromarray(sheet).save(shown, "PNG")
        write_atomically(target.with_suffix(".png"), shown.getvalue())
    except OSError as error:
        raise unwritten(f"cannot write the synthetic set to {out}", error) from None
    return target


def contact_sheet(
    pixels_NHWC: NDArray[np.generic], label_N: NDArray[np.generic], columns: int = 16, zoom: int = 2
) -> NDArray[np.uint8]:
    """One row of `columns` images per class [H, W, 3], enlarged `zoom` times."""
    rows = []
    for label in np.unique(label_N):
        chosen = pixels_NHWC[np.flatnonzero(label_N == label)[:columns]]
        framed = np.pad(chosen, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows.append(np.concatenate(list(framed), axis=1))
    return np.concatenate(rows).astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)


class SyntheticConfig(BaseModel):
    """Keys of data_prep/synthetic.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    out: PathText = Field(description="folder to write to")
    what: Literal["set", "jpegs"] = Field("set", description="the synthetic set, or a tree of JPEGs like ImageNet's")
    classes: int = Field(10, ge=1, le=MOST_CLASSES, description="of the tree")
    train_per_class: int = Field(100, ge=1, le=1_000_000, description="training images of each class of the tree")
    val_per_class: int = Field(10, ge=0, le=1_000_000, description="validation images of each class of the tree")
    seed: int = Field(0, ge=0, lt=2**32, description="of the tree")
    workers: int = Field(2, ge=1, le=1024, description="threads that make the tree")


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", SyntheticConfig)


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(SyntheticConfig, argv)
    out = Path(config.out)
    if config.what == "set":
        print(write(out))
        return
    write_jpeg_tree(
        out,
        classes=config.classes,
        train_per_class=config.train_per_class,
        val_per_class=config.val_per_class,
        seed=config.seed,
        workers=config.workers,
    )
    print(out)


if __name__ == "__main__":
    cli.run(main, help_text, {})
