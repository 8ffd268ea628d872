"""Image files of every format, flipped, cut, joined, or saying sizes they do not have, through all ways to read."""

import io
import random
from functools import cache
from pathlib import Path

import crafted_images
import numpy as np
import pytest
from fuzz.fuzzing import assert_no_faults, cut, flipped, judge
from loader_configs import loader_config
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets import FileSet
from pipeline.datasets.replacing import ReplacingSet
from pipeline.loaders.cpu_batches import HostBatches, Task

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "PPM",
    "TIFF",
    "TGA",
    "PCX",
    "SGI",
    "ICO",
    "JPEG2000",
    "DDS",
    "MPO",
)
MODES = ("RGB", "L", "CMYK", "RGBA", "LA", "P", "1", "I;16", "I", "F")
SIDES = (0, 1, 9_460, 16_384, 30_000, 65_500)
CONFIG = loader_config(batch_size=1, image_size=8, mean=(0.0,) * 3, std=(1.0,) * 3, crop="window", train=True)


@cache
def seeds() -> tuple[bytes, ...]:
    """Whole files of every format in every mode that it has."""
    found = [crafted_images.saying(kind, 9, 14) for kind in crafted_images.BOMBS]
    found += [crafted_images.png(np.arange(9 * 14 * n, dtype=np.uint16).reshape(9, 14, n) * 99) for n in (1, 2, 3, 4)]
    picture = crafted_images.small().resize((40, 32))
    for kind in FORMATS:
        for mode in MODES:
            for options in ({}, {"progressive": True}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}):
                buffer = io.BytesIO()
                try:
                    picture.convert("I").convert(mode).save(buffer, kind, **options) if mode in (
                        "I;16",
                        "I",
                        "F",
                    ) else picture.convert(mode).save(buffer, kind, **options)
                except (OSError, KeyError, ValueError, RuntimeError):
                    continue
                found.append(buffer.getvalue())
    return tuple(dict.fromkeys(found))


def case_of(rng: random.Random) -> bytes:
    data = rng.choice(seeds())
    way = rng.randrange(9)
    if way == 0:
        return flipped(data, rng)
    if way == 1:
        return flipped(data, rng, bits=rng.randrange(2, 40))
    if way == 2:
        return cut(data, rng)
    if way == 3:  # the header only
        return flipped(data[:64], rng, bits=rng.randrange(1, 6)) + data[64:]
    if way == 4:
        other = rng.choice(seeds())
        return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    if way == 5:
        return crafted_images.saying(rng.choice(crafted_images.BOMBS), rng.choice(SIDES[2:]), rng.choice(SIDES[2:]))
    if way == 6:
        at = rng.randrange(len(data))
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at + rng.randrange(9) :]
    if way == 7:  # some part many times: scans, frames, chunks
        at = rng.randrange(len(data))
        part = data[at : at + rng.randrange(1, 60)]
        return data[:at] + part * rng.randrange(2, 400) + data[at:]
    return rng.randbytes(rng.randrange(200))


def read_all_ways(folder: Path, data: bytes) -> None:
    """What trainer, index, cache and .beton writer do with a file; each alone is refused, and then replaced."""
    path = folder / "train" / "a" / "x.jpg"
    path.write_bytes(data)
    files = FileSet(
        name="fuzz",
        split="train",
        label_N=np.zeros(2, np.int64),
        class_names=("a", "b"),
        root=folder,
        paths=("train/a/x.jpg", "train/a/good.png"),
    )
    refused = None
    for act in (files.size, files.check, files.encoded, files.read, lambda i: window(files, i)):
        try:
            act(0)
        except InputError as error:
            assert "\n" not in str(error) and "x.jpg" in str(error), str(error)
            refused = error
    replacing = ReplacingSet(files)
    replacing.read(0)
    window(replacing, 0)
    if refused is not None:
        raise refused


def window(files: FileSet, index: int) -> None:
    HostBatches(files, CONFIG).pixels(Task(0, np.array([index])))


def prepared(folder: Path) -> Path:
    (folder / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "train" / "a" / "good.png")
    return folder


def test_a_few_images(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    rng = random.Random("a few")
    assert_no_faults(judge([case_of(rng) for _ in range(40)], lambda data: read_all_ways(folder, data)), 5)


@pytest.mark.slow
def test_images(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    cases = [case_of(fuzz_rng) for _ in range(fuzz_cases)]
    run = lambda data: read_all_ways(folder, data)  # noqa: E731
    assert_no_faults(judge(cases, run, seconds=60, memory_mb=3000), fuzz_cases // 4)
