"""Decoding on the GPU: the same samples and windows as on the host, and nearly the pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from loader_configs import loader_config
from PIL import Image

from pipeline.datasets.image_set import FileSet
from pipeline.loaders import LOADERS

pytestmark = [pytest.mark.gpu, pytest.mark.dali]


def smooth_set(root: Path, n: int = 40) -> FileSet:
    rng = np.random.Generator(np.random.Philox(n))
    for i, (width, height) in enumerate(rng.integers(100, 400, (n, 2)).tolist()):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(root / f"{i}.jpg", quality=92)
    paths = tuple(f"{i}.jpg" for i in range(n))
    label_N = np.zeros(n, np.int64)
    return FileSet(name="smooth", split="train", label_N=label_N, class_names=("a",), root=root, paths=paths)


@pytest.mark.parametrize("decoder", ["mixed", "cpu"])
@pytest.mark.parametrize("changes", [{}, {"crop": "pad", "padding": 9}, {"train": False}], ids=str)
def test_pixels_are_nearly_those_of_the_host(tmp_path, decoder, changes):
    files = smooth_set(tmp_path)
    how = {"batch_size": 16, "image_size": 96, "mean": (0, 0, 0), "std": (1, 1, 1), "crop": "window", "flip": True}
    loader = LOADERS.get("dali")(files, loader_config(**{**how, **changes}, device="cuda", workers=4), decoder=decoder)
    other = LOADERS.get("torch")(files, loader_config(**{**how, **changes}))
    for _ in range(3):
        for a, b in zip(loader, other, strict=True):
            assert a.image_BCHW.is_cuda and torch.equal(a.index_B.cpu(), b.index_B) and a.info.view == b.info.view
            apart_B = 255 * (a.image_BCHW.cpu() - b.image_BCHW).abs().mean((1, 2, 3))
            assert apart_B.mean() < 1 and apart_B.max() < 2
