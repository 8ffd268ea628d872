"""Small sets in memory, and what a loader should make of them, spelled out one image at a time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loader_configs import loader_config
from PIL import Image

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.image_set import ArraySet, FileSet

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def array_set(n=70, height=16, width=16):
    rng = np.random.default_rng(n)
    return ArraySet(
        name="small",
        split="train",
        label_N=rng.integers(0, 5, n),
        class_names=tuple("abcde"),
        pixels_NHWC=rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8),
    )


@dataclass(frozen=True, kw_only=True)
class MemoryFiles(FileSet):
    """Files that need no disk: decoded images of any size, and one that cannot be read."""

    images: tuple[np.ndarray, ...]
    broken: int = -1

    def read(self, index):
        if index == self.broken:
            raise InputError(f"{self.paths[index]}: not an image")
        return self.images[index]


def file_set(n=23, broken=-1):
    rng = np.random.default_rng(n)
    sizes = rng.integers(20, 70, (n, 2))
    # Smooth images: noise would hide a resampling by the wrong filter behind its own average.
    images = tuple(
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
        )
        for h, w in sizes.tolist()
    )
    return MemoryFiles(
        name="files",
        split="train",
        label_N=rng.integers(0, 3, n),
        class_names=tuple("xyz"),
        root=Path("nowhere"),
        paths=tuple(f"{i}.jpg" for i in range(n)),
        images=images,
        broken=broken,
    )


def configured(**changes):
    common = {"batch_size": 16, "image_size": 16, "mean": MEAN, "std": STD, "seed": 3, "data_seed": 8}
    return loader_config(**{**common, **changes})


def augmented(**changes):
    return configured(**{"crop": "pad", "padding": 3, "flip": True, "rotation": 25.0, **changes})


def normalised(pixels_HWC):
    """(x / 255 - mean) / std in float32, [3, H, W]."""
    real = pixels_HWC.astype(np.float32) / np.float32(255)
    return ((real - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)).transpose(2, 0, 1)


def obvious_pixels(image_set, how, view, index):
    """One image of an ArraySet, padded, cropped, mirrored and rotated by the law."""
    pixels, one, size = image_set.read(index), np.array([index]), how.image_size
    top, left = views.crop_offsets(how.data.seed, view, one, how.data.padding)
    padded = np.pad(pixels, ((how.data.padding, how.data.padding), (how.data.padding, how.data.padding), (0, 0)))
    pixels = padded[top[0] : top[0] + size, left[0] : left[0] + size]
    if how.data.flip and views.flips(how.data.seed, view, one)[0]:
        pixels = pixels[:, ::-1]
    angle = views.rotation_angles(how.data.seed, view, one, how.data.rotation)[0]
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).rotate(angle, Image.Resampling.NEAREST))
