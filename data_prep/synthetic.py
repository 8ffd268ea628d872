"""Writes the synthetic set to a folder: `python data_prep/synthetic.py out=DIR`.

DIR/synthetic-v1.npz is the set (dataset=synthetic data.root=DIR reads it), DIR/synthetic-v1.png shows it.
"""

import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets.synthetic import FILE, to_arrays

USAGE = "usage: python data_prep/synthetic.py out=DIR   (writes DIR/synthetic-v1.npz and a picture of it)"


def write(out: Path) -> Path:
    """Writes the set and its contact sheet into `out` and returns the path of the set. Raises InputError."""
    target = out / FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        arrays = to_arrays()
        with tempfile.NamedTemporaryFile(dir=out, prefix=f".{FILE}-", delete=False) as handle:
            np.savez(handle, allow_pickle=False, **arrays)
            handle.flush()
            os.fsync(handle.fileno())
        Path(handle.name).chmod(0o644)
        Path(handle.name).replace(target)
        sheet = contact_sheet(arrays["test_pixels_NHWC"], arrays["test_label_N"])
        Image.fromarray(sheet).save(target.with_suffix(".png"))
    except OSError as error:
        raise InputError(f"cannot write the synthetic set to {out}: {error.strerror}") from None
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


def main(argv: list[str]) -> int:
    """Exit code: 0; 2 for bad arguments and folders that cannot be written."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    given = dict(part.split("=", 1) for part in argv if "=" in part)
    if set(given) != {"out"} or len(argv) != 1 or not given["out"]:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        print(write(Path(given["out"])))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
