"""Small image files of all kinds that ImageNet holds, and of the kinds that break."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image


def scene(key: int, height: int = 20, width: int = 28) -> Image.Image:
    rng = np.random.Generator(np.random.Philox(key))
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def data_of(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(key: int, height: int = 20, width: int = 28, mode: str = "RGB", **options: object) -> bytes:
    return data_of(scene(key, height, width).convert(mode), **options)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def without_tables(data: bytes) -> bytes:
    """The JPEG without its quantisation tables: whole by its markers, and undecodable."""
    while (at := data.find(b"\xff\xdb")) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    return data


def tree(root: Path, classes: int = 3, train: int = 4, val: int = 2) -> Path:
    """root/train/WNID/*.JPEG and root/val/WNID/*.JPEG, all different."""
    for label in range(classes):
        wnid = f"n{label + 1:08d}"
        for split, count in (("train", train), ("val", val)):
            for i in range(count):
                key = label * 100 + i + 50 * (split == "val")
                write(root / split / wnid / f"{wnid}_{i}.JPEG", jpeg(key, 20 + i, 28 + label))
    return root


def aged(root: Path) -> Path:
    """`root` with folders that look an hour old: an index of a folder that has just changed is not trusted."""
    for path in (root, *root.rglob("*")):
        at = path.stat().st_mtime_ns - 3_600_000_000_000
        os.utime(path, ns=(at, at))
    return root
