"""A tree of small JPEGs, and one call of the benchmark."""

import json
from pathlib import Path
from typing import Any

import cli
import numpy as np
import pytest
from PIL import Image

from pipeline import benchmark

QUICK = ["rounds=1", "steps=3", "seconds=0.2", "data.batch_size=8", "data.image_size=32", "data.workers=1"]
PADDED = ["data.crop=pad", "data.padding=2"]  # the resident loader draws no windows
TINY_PAIR = ["networks=cifar", "pair=resnet56-resnet20", "teacher.model=resnet8", "model=resnet8", "method=kd"]


def write(root: Path, per_class: int = 9) -> Path:
    """root/train and root/val, two classes of noise, sides of 40 to 60 pixels."""
    rng = np.random.Generator(np.random.Philox(3))
    for split, count in (("train", per_class), ("val", 2)):
        for name in ("ant", "bee"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(40, 61, 2)
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.JPEG", quality=90)
    return root


def measure(words: list[str], file: Path, capture: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """(the JSON that the benchmark wrote to `file`, what it printed)."""
    code, out, err = cli.call(benchmark, [*words, f"json={file}"], capture)
    assert code == 0, err
    return json.loads(file.read_text()), out


def check_row(row: dict[str, Any], rounds: int) -> None:
    """A speed between the least and the most of its rounds."""
    assert len(row["rounds"]) == rounds
    assert 0 < row["spread"][0] <= row["images_per_second"] <= row["spread"][1]
