"""Small JPEG trees, and what Pillow makes of their files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import views
from pipeline.datasets.image_set import FileSet
from pipeline.loaders.config import LoaderConfig

# How JPEGs differ: colours at full or less resolution, grey, progressive, with restart markers.
KINDS = (
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"subsampling": 2, "restart_marker_rows": 1},
    {"subsampling": 2, "progressive": True},
)


def scene(seed: int, height: int, width: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture with some noise: neighbours differ, as in photographs."""
    rng = np.random.Generator(np.random.Philox(seed))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    noisy = smooth + rng.integers(-15, 16, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def jpeg_set(root: Path, n: int = 41, classes: int = 3, least: int = 30, most: int = 120) -> FileSet:
    """n JPEGs of many kinds and sizes under `root`, by class; one is grey, and one a PNG under a JPEG's name."""
    rng = np.random.Generator(np.random.Philox(n))
    paths = []
    for i, (height, width) in enumerate(rng.integers(least, most, (n, 2)).tolist()):
        path = root / f"class{i * classes // n}" / f"{i:03d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = scene(i, height, width, "L" if i == 7 else "RGB")
        if i == 11:
            image.save(path, "PNG")
        else:
            image.save(path, "JPEG", quality=90, **KINDS[i % len(KINDS)])
        paths.append(str(path.relative_to(root)))
    return FileSet(
        name="tree",
        split="train",
        label_N=np.arange(n, dtype=np.int64) * classes // n,
        class_names=tuple(f"class{k}" for k in range(classes)),
        root=root,
        paths=tuple(paths),
    )


def by_pillow(images: FileSet, how: LoaderConfig, view: int, index: int, size: int) -> NDArray[np.uint8]:
    """The window of one image as torchvision shows it: Pillow decodes all, crops, resizes, mirrors."""
    image = Image.open(images.root / images.paths[index]).convert("RGB")
    one = np.array([index])
    high, wide = np.array([image.height]), np.array([image.width])
    window = views.resized_crop_windows(how.data.seed, view, one, high, wide, how.data.scale, how.data.ratio)
    top, left, height, width = window[0].tolist()
    small = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    if how.mirrors and np.asarray(views.flips(how.data.seed, view, one))[0]:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(small)
