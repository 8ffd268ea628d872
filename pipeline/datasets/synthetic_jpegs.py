"""A tree of generated JPEGs that cost what ImageNet's photographs cost: for benchmarks and tests without data.

Sides, chroma sampling, bytes per pixel and decoding time follow 100 real files (docs/data.md has the comparison): most
are 500 x 375 pixels of JPEG quality 96 without chroma subsampling. A picture is noise whose variance is the same in
every octave, as in photographs, sharp in some places and smooth in others; a class is the direction and the width of
its stripes and a tint. Windows of any size show them, so the loss of a short training falls.

The same seed gives the same pixels whatever the number of workers, and the same bytes with the same Pillow.
"""

import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import unwritten
from pipeline.datasets.synthetic_pixels import Draws, Floats, upsampled
from pipeline.utils.atomic import whole_or_absent

FIELD = 1152  # pixels along a side of the noise that all pictures are cut from
COARSE, FINE = (4, 8, 16, 32, 64), (128, 256, 512, 1152)  # control points along it, one octave each
FIELDS, PICTURE = range(2)  # second word of a key
MOST_CLASSES = 1000
LONG = 1 << 24  # images of a class that a key can tell apart, by split
# (width, height, share in percent), after ImageNet's training set; the rest is drawn freely.
SIDES = ((500, 375, 34), (500, 333, 20), (375, 500, 11), (333, 500, 8), (640, 480, 3), (768, 512, 2))
FREE_SIDES = (110, 480)  # pixels
GREY, SUBSAMPLED = 0.02, 0.2  # shares of the files


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What all pictures of a class share. stripe_YX: cycles per pixel; tint_C: added to the channels."""

    stripe_YX: tuple[float, float]
    tint_C: Floats


def write_jpeg_tree(
    root: Path,
    *,
    classes: int = 10,
    train_per_class: int = 100,
    val_per_class: int = 10,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Writes root/train/CLASS/*.JPEG and root/val/CLASS/*.JPEG; what is there already is written again.

    workers: threads (NumPy and the encoder let go of the interpreter's lock). Raises InputError, NotWritten.
    """
    jobs = []
    for label in range(classes):
        name = f"n{label:08d}"
        for split, count in enumerate((train_per_class, val_per_class)):
            folder = root / ("train", "val")[split] / name
            jobs += [(folder / f"{name}_{i}.JPEG", label, split * LONG + i) for i in range(count)]
    try:
        for folder in {path.parent for path, _, _ in jobs}:
            folder.mkdir(parents=True, exist_ok=True)
        fields(seed)  # once, not by every thread at the same time
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for _ in pool.map(partial(_write, seed), jobs):
                pass
    except OSError as error:
        raise unwritten(f"cannot write {error.filename or root}", error) from None


def _write(seed: int, job: tuple[Path, int, int]) -> None:
    path, label, number = job
    with whole_or_absent(path, durable=False) as handle:  # a million files flushed one by one take hours
        handle.write(jpeg(seed, label, number))


def jpeg(seed: int, label: int, number: int) -> bytes:
    """One file: picture `number` of class `label`."""
    draws = Draws(seed, PICTURE, label, number)
    width, height = _side(draws)
    pixels_HWC = picture(seed, kind(label), draws, height, width)
    grey, subsampled = (float(draws.uniform(1)[0]) < share for share in (GREY, SUBSAMPLED))
    image = Image.fromarray(pixels_HWC)
    buffer = io.BytesIO()
    quality = 96 if draws.below(4, 1)[0] else 88
    (image.convert("L") if grey else image).save(buffer, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    return buffer.getvalue()


def kind(label: int) -> Kind:
    """The class: neighbours differ in all three properties; 1,000 classes have 1,000 combinations."""
    angle = math.pi * (label * 7 % 10 + label // 100 / 10) / 10
    period = 6.0 * 1.26 ** (label // 10 % 10)
    hue = 2 * math.pi * (label * 3 % 10 + label // 100 / 10) / 10
    tint = [round(18 * math.cos(hue + shift), 2) for shift in (0, 2.0944, 4.1888)]
    stripe = (round(math.sin(angle) / period, 5), round(math.cos(angle) / period, 5))
    return Kind(stripe_YX=stripe, tint_C=np.array(tint, dtype=np.float32))


def picture(seed: int, kind: Kind, draws: Draws, height: int, width: int) -> NDArray[np.uint8]:
    """RGB pixels [height, width, 3]."""
    coarse, fine = fields(seed)
    light, depth, *chroma = (_cut(coarse, draws, height, width) for _ in range(5))
    detail = _cut(fine, draws, height, width)
    gain, contrast, sharp = (float(x) for x in draws.uniform(3))
    mask = np.clip(depth * np.float32(0.6) + np.float32(1.7 * sharp), np.float32(0.1), np.float32(2))
    luma = light * np.float32(14 + 12 * contrast) + detail * mask * np.float32(1 + 15 * gain)
    luma += _stripes(kind, draws, height, width) * np.float32(22)
    pixels_HWC = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        tone = luma + chroma[channel] * np.float32(7) + (kind.tint_C[channel] + np.float32(122))
        pixels_HWC[..., channel] = tone
    return np.clip(pixels_HWC, 0, 255).astype(np.uint8)


def _side(draws: Draws) -> tuple[int, int]:
    """(width, height)."""
    draw, (width, height) = int(draws.below(100, 1)[0]), draws.below(FREE_SIDES[1] - FREE_SIDES[0], 2).tolist()
    for known in SIDES:
        draw -= known[2]
        if draw < 0:
            return known[:2]
    return FREE_SIDES[0] + width, FREE_SIDES[0] + height


def _cut(field: Floats, draws: Draws, height: int, width: int) -> Floats:
    """A window of the noise, perhaps mirrored."""
    top, left = int(draws.below(FIELD - height, 1)[0]), int(draws.below(FIELD - width, 1)[0])
    window = field[top : top + height, left : left + width]
    return window[:, ::-1] if draws.below(2, 1)[0] else window


def _stripes(kind: Kind, draws: Draws, height: int, width: int) -> Floats:
    """Triangular waves in -1..1."""
    y, x = (
        np.arange(side, dtype=np.float32) * np.float32(f)
        for side, f in zip((height, width), kind.stripe_YX, strict=True)
    )
    phase = y[:, None] + x + draws.uniform(1)
    wave: Floats = np.abs(phase - np.floor(phase) - np.float32(0.5)) * np.float32(4) - np.float32(1)
    return wave


@cache
def fields(seed: int) -> tuple[Floats, Floats]:
    """(coarse, fine) noise [FIELD, FIELD]: octaves of one amplitude each."""
    made = []
    for part, octaves in enumerate((COARSE, FINE)):
        total = np.zeros((FIELD, FIELD), np.float32)
        for points in octaves:
            grid = Draws(seed, FIELDS, part, points).bell(1, points, points, 1)
            total += upsampled(grid, FIELD)[0, :, :, 0]
        made.append(total)
    return made[0], made[1]
