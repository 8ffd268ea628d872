"""The synthetic set: one fixed procedural definition of small pictures, the same bits on every machine.

A class is a background texture (shared by its group) and two kinds of mark (each shared with another class of the
group, some pairs with the next group): no single part tells the class. Several marks of both kinds are placed, scaled,
turned and coloured at random; some are of any kind instead, and some training labels are wrong. So evidence has to be
weighed, capacity helps, and the relations between classes that a teacher learns help a student. Two large marks were
tried first: a network finds such a mark or misses it, and resnet8 varied by 5 points from seed to seed (now by 1.6).

Only +, -, *, /, sqrt, floor and comparisons in float32 on raw Philox bits: all of them are exact or correctly rounded
(IEEE 754), where exp, sin and sums are not the same on all machines. Hence no library random distribution either.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.synthetic_shapes import MARKS, TEXTURES, Floats

GRID = 3  # marks lie in GRID x GRID cells
CHUNK = 256  # images drawn from one key: sample i does not depend on how many there are


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """What is drawn. classes: a multiple of 4, in groups of 4, at most 20; train, test: number of images.

    side: of the picture, pixels. noise: standard deviation of the pixel noise, of 255. contrast: of marks against the
    background, at most, of 255. texture: amplitude of the background's texture, of 255. radius: of marks, mean, pixels.
    marks: per image, at most 9. stray: share of marks that are of any kind. label_noise: share of training labels that
    are wrong, half of them within the group.
    """

    version: int = 1
    side: int = 32
    classes: int = 12
    train: int = 2400
    test: int = 1800
    noise: float = 12.0
    contrast: float = 110.0
    texture: float = 35.0
    radius: float = 3.8
    marks: int = 6
    stray: float = 0.2
    label_noise: float = 0.12


class Draws:
    """Random numbers of one chunk: raw Philox bits, whose sequence NumPy guarantees, turned into floats by shifts."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.Philox(key=sum(part << (32 * i) for i, part in enumerate(key)))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Floats:
        """[low, high), 24 bits."""
        raw = self._bits.random_raw(int(np.prod(shape))).reshape(shape)
        unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return np.float32(low) + unit * np.float32(high - low)

    def below(self, bound: int, *shape: int) -> NDArray[np.int64]:
        """Integers 0 .. bound-1 (bias below 2^-31)."""
        raw = self._bits.random_raw(int(np.prod(shape))).reshape(shape)
        return ((raw >> np.uint64(32)) % np.uint64(bound)).astype(np.int64)

    def bell(self, *shape: int) -> Floats:
        """About normal, standard deviation 1: the sum of four bytes."""
        raw = self._bits.random_raw((int(np.prod(shape)) + 1) // 2).astype("<u8")
        lanes = raw.view(np.uint8).reshape(-1, 4)
        total = lanes[:, 0].astype(np.int32) + lanes[:, 1] + lanes[:, 2] + lanes[:, 3] - 510
        scaled: Floats = total.astype(np.float32)[: int(np.prod(shape))].reshape(shape) * np.float32(1 / 147.8)
        return scaled


def class_marks(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """The two marks [N, 2] of a class: members of a group share each mark with one other member."""
    group, member = label // 4, label % 4
    pair = np.stack([member, (member + 1) % 4], axis=1)
    return (2 * group[:, None] + pair) % len(MARKS)


def _paint(canvas_NCHW: Floats, kind_N: NDArray[np.int64], place: tuple[Floats, ...]) -> None:
    """Lays one mark over each image. place: x, y, radius (pixels), turn (tangent of half the angle), colour [N, C]."""
    x_N, y_N, radius_N, turn_N, colour_NC = place
    side = canvas_NCHW.shape[-1]
    at = np.arange(side, dtype=np.float32)
    across, along = (1 - turn_N * turn_N) / (1 + turn_N * turn_N), 2 * turn_N / (1 + turn_N * turn_N)
    dx = ((at[None, :] - x_N[:, None]) / radius_N[:, None])[:, None, :]
    dy = ((at[None, :] - y_N[:, None]) / radius_N[:, None])[:, :, None]
    cos, sin = across[:, None, None], along[:, None, None]
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    inside = np.empty_like(u)
    for kind, mark in enumerate(MARKS):
        rows = np.flatnonzero(kind_N == kind)
        inside[rows] = mark(u[rows], v[rows])
    cover = np.clip(inside * radius_N[:, None, None] + np.float32(0.5), 0, 1)
    canvas_NCHW += cover[:, None] * (colour_NC[:, :, None, None] - canvas_NCHW)


def _background(spec: SyntheticSpec, draws: Draws, label_N: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """A slanted colour field with the group's texture [N, 3, H, W], and its mean colour [N, 3]."""
    n, side = len(label_N), spec.side
    base_NC = draws.uniform(n, 3, low=80, high=176)
    slope = draws.uniform(2, n, 3, low=-40, high=40)
    at = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) - np.float32(0.5)
    field = base_NC[:, :, None, None] + slope[0][:, :, None, None] * at + slope[1][:, :, None, None] * at[:, None]
    period = draws.uniform(n, low=5, high=9)[:, None]
    mirror = np.where(draws.below(2, n) == 1, np.float32(1), np.float32(-1))[:, None]
    phase = draws.uniform(2, n, 1)
    pixel = np.arange(side, dtype=np.float32)
    x, y = (pixel * mirror / period + phase[0])[:, None, :], (pixel / period + phase[1])[:, :, None]
    strength = draws.uniform(n, low=0.5, high=1.5) * np.float32(spec.texture)
    group_N = (label_N // 4) % len(TEXTURES)
    weave = np.zeros((n, side, side), dtype=np.float32)
    for group, texture in enumerate(TEXTURES):
        rows = np.flatnonzero(group_N == group)
        weave[rows] = texture(x[rows], y[rows])
    field += (weave * strength[:, None, None])[:, None] * draws.uniform(n, 3, low=0.4, high=1.0)[:, :, None, None]
    return field, base_NC


def _marks(spec: SyntheticSpec, draws: Draws, label_N: NDArray[np.int64], base_NC: Floats, canvas_NCHW: Floats) -> None:
    """Marks in different cells of a grid: of the two kinds of the class in turn, some of any kind instead."""
    n, cell = len(label_N), np.float32(spec.side / GRID)
    cells = np.argsort(draws.below(1 << 30, n, GRID * GRID), axis=1, kind="stable")
    kinds = class_marks(label_N)
    for i in range(spec.marks):
        x_N, y_N = (cells[:, i] % GRID).astype(np.float32), (cells[:, i] // GRID).astype(np.float32)
        shift = draws.uniform(2, n, low=0.35, high=0.65)
        stray = draws.uniform(n) < np.float32(spec.stray)
        kind_N = np.where(stray, draws.below(len(MARKS), n), kinds[:, i % 2])
        radius_N = draws.uniform(n, low=0.75, high=1.25) * np.float32(spec.radius)
        turn_N = draws.uniform(n, low=-0.2, high=0.2)
        place = ((x_N + shift[0]) * cell, (y_N + shift[1]) * cell, radius_N, turn_N, _colours(spec, draws, base_NC))
        _paint(canvas_NCHW, kind_N, place)


def _colours(spec: SyntheticSpec, draws: Draws, base_NC: Floats) -> Floats:
    n = len(base_NC)
    sign_N = np.where(draws.below(2, n) == 1, np.float32(1), np.float32(-1))
    strength_NC = draws.uniform(n, 3, low=0.5, high=1.0) * np.float32(spec.contrast)
    return base_NC + sign_N[:, None] * strength_NC


def _wrong_labels(spec: SyntheticSpec, draws: Draws, label_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels of which a share is moved: half of them within the group, half to any other class."""
    n = len(label_N)
    wrong = draws.uniform(n) < np.float32(spec.label_noise)
    near = label_N // 4 * 4 + (label_N + 1 + draws.below(3, n)) % 4
    far = (label_N + 1 + draws.below(spec.classes - 1, n)) % spec.classes
    return np.where(wrong, np.where(draws.below(2, n) == 1, near, far), label_N)


def generate(spec: SyntheticSpec, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """pixels_NHWC and label_N of one split. Sample i is of class i mod K (before wrong labels), whatever the sizes."""
    total, number = (spec.train, 1) if split == "train" else (spec.test, 2)
    pixels_NHWC = np.empty((total, spec.side, spec.side, 3), dtype=np.uint8)
    label_N = np.arange(total, dtype=np.int64) % spec.classes
    for start in range(0, total, CHUNK):
        draws = Draws(spec.version, number, start // CHUNK)
        truth = np.arange(start, start + CHUNK, dtype=np.int64) % spec.classes
        canvas_NCHW, base_NC = _background(spec, draws, truth)
        _marks(spec, draws, truth, base_NC, canvas_NCHW)
        canvas_NCHW += draws.bell(*canvas_NCHW.shape) * np.float32(spec.noise)
        rounded = np.clip(np.floor(canvas_NCHW + np.float32(0.5)), 0, 255).astype(np.uint8)
        labels = _wrong_labels(spec, draws, truth) if split == "train" else truth
        rows = slice(start, min(start + CHUNK, total))
        pixels_NHWC[rows] = rounded.transpose(0, 2, 3, 1)[: rows.stop - start]
        label_N[rows] = labels[: rows.stop - start]
    return pixels_NHWC, label_N
