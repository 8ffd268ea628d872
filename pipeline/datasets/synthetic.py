"""The synthetic set (synthetic_pixels.py tells what is drawn): made in memory, or read back from the file of it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.array_file import read_arrays
from pipeline.datasets.image_set import SPLITS, ArraySet, check_split
from pipeline.datasets.synthetic_pixels import SyntheticSpec, generate

SPEC = SyntheticSpec()
FILE = f"synthetic-v{SPEC.version}.npz"


@DATASETS.register("synthetic")
def load_synthetic(root: Path | None = None, split: str = "train", download: bool = False) -> ArraySet:
    """The one fixed set. Reads root/synthetic-v1.npz where it is, and makes the same pixels in memory where it is not.

    Raises InputError when the file is damaged or of another definition. `download` is not needed and ignored.
    """
    check_split(split)
    path = None if root is None else root / FILE
    pixels_NHWC, label_N = _read(path, split) if path is not None and path.exists() else generate(SPEC, split)
    names = tuple(f"{'abcdefghij'[k // SPEC.group]}{k % SPEC.group}" for k in range(SPEC.classes))
    return ArraySet(name="synthetic", split=split, label_N=label_N, class_names=names, pixels_NHWC=pixels_NHWC)


def to_arrays() -> dict[str, NDArray[np.generic]]:
    """What the file holds: pixels and labels of both splits, the definition, and a SHA-256 over all of them."""
    arrays: dict[str, NDArray[np.generic]] = {"definition": np.array(_definition())}
    for split in SPLITS:
        arrays[f"{split}_pixels_NHWC"], arrays[f"{split}_label_N"] = generate(SPEC, split)
    return {**arrays, "sha256": np.array(_digest(arrays))}


def _definition() -> str:
    return json.dumps(asdict(SPEC), sort_keys=True)


def _digest(arrays: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(_definition().encode())
    for split in SPLITS:
        for key in (f"{split}_pixels_NHWC", f"{split}_label_N"):
            digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()


def _read(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    hint = f"delete it, or write it again with data_prep/synthetic.py out={path.parent}"
    try:
        arrays = read_arrays(path)
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}; {hint}") from None
    wanted: dict[str, tuple[type, tuple[int, ...]]] = {}
    for part, count in (("train", SPEC.train), ("test", SPEC.test)):
        wanted[f"{part}_pixels_NHWC"] = np.uint8, (count, SPEC.side, SPEC.side, 3)
        wanted[f"{part}_label_N"] = np.int64, (count,)
    if not {*wanted, "definition", "sha256"} <= arrays.keys():
        raise InputError(f"{path} is damaged: it lacks arrays; {hint}")
    if str(arrays["definition"]) != _definition():
        raise InputError(f"{path} is of another definition of the synthetic set; {hint}")
    if any((arrays[name].dtype, arrays[name].shape) != kind for name, kind in wanted.items()):
        raise InputError(f"{path} is damaged: it holds arrays of another kind; {hint}")
    if str(arrays["sha256"]) != _digest(arrays):
        raise InputError(f"{path} is damaged: its content does not match its SHA-256; {hint}")
    return arrays[f"{split}_pixels_NHWC"], arrays[f"{split}_label_N"]
