"""CIFAR-100's python archive out of class sheets, decoded side by side.

python tools/gpu/unpack.py OUT FOLDER...

A sheet is FOLDER/{train,test}/CLASS.webp: the images of one class, 32 x 32 pixels, in rows of 25 (train) or 10 (test).
The classes are numbered by name. OUT gets cifar-100-python/{train,test,meta}.
"""

import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, CLASSES = 32, 100
COLUMNS = {"train": 25, "test": 10}


def images_of(sheet: Path, columns: int) -> np.ndarray:
    """uint8 [images, 3072], each image's planes one after another, as the archive has them."""
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    rows = pixels.shape[0] // SIDE
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(rows * columns, 3 * SIDE * SIDE)


def unpack(out: Path, folders: list[Path]) -> dict[str, int]:
    """Number of images by split. Raises ValueError where the sheets are not those of 100 classes."""
    found = {
        split: sorted((p for f in folders for p in (f / split).glob("*.webp")), key=lambda p: p.stem)
        for split in COLUMNS
    }
    names = [p.stem for p in found["train"]]
    if len(set(names)) != CLASSES or len(names) != CLASSES or names != [p.stem for p in found["test"]]:
        sheets = " and ".join(f"{len(paths)} of {split}" for split, paths in found.items())
        raise ValueError(f"{sheets} in {', '.join(map(str, folders))}, not one of each of {CLASSES} classes")
    folder = out / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    with ProcessPoolExecutor() as pool:
        for split, columns in COLUMNS.items():
            data = list(pool.map(partial(images_of, columns=columns), found[split], chunksize=4))
            labels = [number for number, rows in enumerate(data) for _ in rows]
            record = {"data": np.concatenate(data), "fine_labels": labels}
            (folder / split).write_bytes(pickle.dumps(record, protocol=4))
            counts[split] = len(labels)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=4))
    return counts


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        print(unpack(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
