"""The synthetic set: one fixed procedural definition of small pictures, the same bits on every machine.

A class is a few soft colour patterns (prototypes), half of each shared with the other classes of its group. A picture
is one of them, shifted, perhaps mirrored, brighter or paler, blended with a pattern of another class of the group, in
other light, under noise; some training labels are wrong. Many patterns and faint differences within a group make
capacity matter, and what a teacher has learnt of the likeness of classes helps a student.

Patterns rather than shapes: small networks learn shapes in sudden jumps, which made results of equal runs with other
seeds differ by 10 points within a quickstart's few minutes; with patterns they differ by 1 or 2.

Only +, -, *, /, floor and comparisons in float32 on raw Philox bits: all of them are exact or correctly rounded
(IEEE 754), where exp, sin and sums are not the same on all machines. Hence no library random distribution either.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 256  # images drawn from one key: sample i does not depend on how many there are
PATTERNS, TRAIN, TEST = range(3)  # second word of a key: what is drawn
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """What is drawn. classes: a multiple of group; train, test: number of images; side: of the picture, pixels.

    group: classes that share half of their patterns; prototypes: patterns per class; grid: control points of a pattern
    along a side; mix: largest share of the other class; shift: largest displacement, pixels. contrast, light, noise:
    amplitude of the pattern, of the change of light, standard deviation of the pixel noise, all of 255.
    label_noise: share of training labels that are wrong, at least half of them within the group.
    """

    version: int = 1
    side: int = 32
    classes: int = 20
    group: int = 4
    prototypes: int = 3
    train: int = 2000
    test: int = 2000
    grid: int = 5
    mix: float = 0.45
    shift: int = 4
    contrast: float = 120.0
    light: float = 10.0
    noise: float = 15.0
    label_noise: float = 0.1


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


def upsampled(points_PGGC: Floats, width: int) -> Floats:
    """Control points, stretched bilinearly to [P, width, width, C]."""
    grid = points_PGGC.shape[1]
    position = np.arange(width, dtype=np.float32) * np.float32((grid - 1) / (width - 1))
    low = np.minimum(position.astype(np.int64), grid - 2)
    part = position - low.astype(np.float32)
    rows = points_PGGC[:, low] * (1 - part)[:, None, None] + points_PGGC[:, low + 1] * part[:, None, None]
    stretched: Floats = rows[:, :, low] * (1 - part)[:, None] + rows[:, :, low + 1] * part[:, None]
    return stretched


def patterns(spec: SyntheticSpec) -> Floats:
    """[classes, prototypes, W, W, 3] in -1..1, W = side + shift: half the class's own, half its group's."""
    draws, width = Draws(spec.version, PATTERNS), spec.side + spec.shift
    groups = spec.classes // spec.group
    own = draws.uniform(spec.classes * spec.prototypes, spec.grid, spec.grid, 3, low=-1, high=1)
    common = draws.uniform(groups * spec.prototypes, spec.grid, spec.grid, 3, low=-1, high=1)
    shape = (-1, spec.prototypes, width, width, 3)
    shared = upsampled(common, width).reshape(shape).repeat(spec.group, axis=0)
    both: Floats = (upsampled(own, width).reshape(shape) + shared) * np.float32(0.5)
    return both


def _chunk(spec: SyntheticSpec, split: str, number: int, field: Floats) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images CHUNK * number onwards and their labels; classes take turns."""
    draws = Draws(spec.version, TRAIN if split == "train" else TEST, number)
    truth_N = (number * CHUNK + np.arange(CHUNK)) % spec.classes
    step_N = 1 + draws.below(spec.group - 1, CHUNK)
    sibling_N = truth_N // spec.group * spec.group + (truth_N + step_N) % spec.group
    kind_N, other_N = draws.below(spec.prototypes, CHUNK), draws.below(spec.prototypes, CHUNK)
    top_N, left_N = draws.below(spec.shift + 1, CHUNK), draws.below(spec.shift + 1, CHUNK)
    mirrored_N = draws.below(2, CHUNK) == 1
    share_N = draws.uniform(CHUNK, low=0, high=spec.mix)
    gain_N = draws.uniform(CHUNK, low=0.6, high=1.4) * np.float32(spec.contrast)
    light_NC = draws.uniform(CHUNK, 3, low=128 - spec.light, high=128 + spec.light)
    pixels = draws.bell(CHUNK, spec.side, spec.side, 3) * np.float32(spec.noise)
    for i in range(CHUNK):
        rows, columns = slice(top_N[i], top_N[i] + spec.side), slice(left_N[i], left_N[i] + spec.side)
        own = field[truth_N[i], kind_N[i], rows, columns]
        other = field[sibling_N[i], other_N[i], rows, columns]
        blend = own + (other - own) * share_N[i]
        pixels[i] += (blend[:, ::-1] if mirrored_N[i] else blend) * gain_N[i] + light_NC[i]
    wrong_N = draws.uniform(CHUNK) < np.float32(spec.label_noise if split == "train" else 0.0)
    anything_N = np.where(draws.below(2, CHUNK) == 1, sibling_N, draws.below(spec.classes, CHUNK))
    label_N = np.where(wrong_N, anything_N, truth_N)
    return np.clip(np.floor(pixels + np.float32(0.5)), 0, 255).astype(np.uint8), label_N


def generate(spec: SyntheticSpec, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(pixels [N, side, side, 3], labels [N]) of `split`, train or test."""
    count, field = getattr(spec, split), patterns(spec)
    chunks = [_chunk(spec, split, number, field) for number in range(-(-count // CHUNK))]
    pixels = np.concatenate([pixels for pixels, _ in chunks])[:count]
    return pixels, np.concatenate([labels for _, labels in chunks])[:count]
