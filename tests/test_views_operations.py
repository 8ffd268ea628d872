"""Which operations are drawn: pinned numbers, distributions, torchvision's scales."""

import math

import numpy as np
import pytest

from pipeline import views
from pipeline.utils.torchvision_compat import torchvision
from pipeline.views import Operation
from pipeline.views.operations import SIGNED
from pipeline.views.policies import CIFAR10, IMAGENET, Row

INDEX = np.array([0, 1, 2, 3, 49999, 2**31 + 7])
MANY = np.arange(30000)

# Numbers of law version 1, by kind and size.
PINNED = {
    ("autoaugment", 32): (
        [[0, 6], [9, 9], [0, 0], [5, 0], [0, 13], [5, 3]],
        [[0, -0.9], [-0.1, 0.3], [0, 0], [6.666666666667, 0], [0, 0], [6.666666666667, -14.501510574018]],
    ),
    ("autoaugment", 224): (
        [[0, 13], [13, 0], [0, 0], [11, 12], [7, 11], [11, 12]],
        [[0, 0], [0, 0], [0, 0], [113.333333333333, 0], [-0.8, 56.666666666667], [113.333333333333, 0]],
    ),
    ("randaugment", 32): (
        [[0, 13], [4, 6], [11, 3], [10, 9], [4, 13], [3, 4]],
        [
            [0, 0],
            [-4.350453172205, -0.27],
            [178.5, 4.350453172205],
            [7, -0.27],
            [4.350453172205, 0],
            [4.350453172205, -4.350453172205],
        ],
    ),
    ("strong", 32): (
        [[1, 3], [7, 3], [2, 2], [0, 4], [11, 9], [6, 0]],
        [
            [-0.106056969194, 7],
            [-0.570881439489, 3],
            [-0.159916712763, -0.221419072431],
            [0, -3],
            [141.500979840755, -0.766833155672],
            [-0.871881586965, 0],
        ],
    ),
}
PATCHES = [[15, 7, 6, 6], [10, 6, 9, 9], [0, 7, 6, 8], [8, 2, 11, 11], [0, 2, 10, 12], [15, 13, 7, 7]]


def is_as_likely(count: int, n: int, chance: float) -> bool:
    return abs(count - n * chance) <= 5 * math.sqrt(n * chance * (1 - chance))


@pytest.mark.parametrize("kind, size", PINNED, ids=str)
def test_the_draws_stay_as_they_are(kind: str, size: int) -> None:
    operation, magnitude = views.ops(1, 2, INDEX, kind, size)
    assert operation.dtype == np.int64 and magnitude.dtype == np.float64
    assert operation.tolist() == PINNED[kind, size][0]
    assert np.allclose(magnitude, PINNED[kind, size][1], rtol=0, atol=1e-11)
    assert views.patches(1, 2, INDEX, 32).tolist() == PATCHES


@pytest.mark.parametrize("kind", views.OP_KINDS)
def test_a_draw_depends_on_its_own_sample_view_and_seed_only(kind: str) -> None:
    together = views.ops(5, 2, MANY[:200], kind, 32)
    for part in (slice(0, 1), slice(7, 8), slice(100, 117)):
        alone = views.ops(5, 2, MANY[part], kind, 32)
        assert all(np.array_equal(a, b[part]) for a, b in zip(alone, together, strict=True))
    assert np.array_equal(views.patches(5, 2, MANY[7:9], 32), views.patches(5, 2, MANY[:200], 32)[7:9])
    for seed, view in ((5, 3), (6, 2)):
        assert not np.array_equal(views.ops(seed, view, MANY[:200], kind, 32)[0], together[0])


@pytest.mark.parametrize("kind", ["randaugment", "strong"])
def test_fourteen_operations_are_equally_likely_in_both_places(kind: str) -> None:
    operation, _ = views.ops(0, 1, MANY, kind, 32)
    pairs = np.bincount(operation[:, 0] * 14 + operation[:, 1], minlength=196)
    expected = len(MANY) / 196
    assert len(pairs) == 196
    assert abs(((pairs - expected) ** 2 / expected).sum() - 195) < 5 * math.sqrt(2 * 195)


@pytest.mark.parametrize("kind, size", [("randaugment", 32), ("autoaugment", 32), ("autoaugment", 224)])
def test_signs_are_even_where_there_are_any(kind: str, size: int) -> None:
    operation, magnitude = views.ops(0, 1, MANY, kind, size)
    moved = SIGNED[operation] & (magnitude != 0)
    assert is_as_likely(int((magnitude[moved] < 0).sum()), int(moved.sum()), 0.5)
    assert np.all(magnitude[~SIGNED[operation]] >= 0)
    for place in (0, 1):
        column = moved[:, place]
        assert is_as_likely(int((magnitude[column, place] < 0).sum()), int(column.sum()), 0.5)


@pytest.mark.parametrize("table, size", [(CIFAR10, 32), (IMAGENET, 64)])
def test_autoaugment_uses_its_sub_policies_evenly_with_their_chances(table: tuple[Row, ...], size: int) -> None:
    operation, _ = views.ops(0, 3, MANY, "autoaugment", size)
    for place in (0, 1):
        chance = np.zeros(len(Operation))
        for row in table:
            chance[row[3 * place]] += row[3 * place + 1] / 10 / len(table)
        chance[Operation.IDENTITY] = 1 - chance.sum()
        count = np.bincount(operation[:, place], minlength=len(Operation))
        assert all(is_as_likely(int(c), len(MANY), p) for c, p in zip(count, chance, strict=True))


def test_strong_magnitudes_are_uniform_in_fixmatchs_ranges() -> None:
    operation, magnitude = views.ops(0, 1, MANY, "strong", 32)
    ranges = {
        Operation.SHEAR_X: (-0.3, 0.3),
        Operation.SHEAR_Y: (-0.3, 0.3),
        Operation.ROTATE: (-30, 30),
        Operation.BRIGHTNESS: (-0.95, -0.05),
        Operation.COLOR: (-0.95, -0.05),
        Operation.CONTRAST: (-0.95, -0.05),
        Operation.SHARPNESS: (-0.95, -0.05),
        Operation.POSTERIZE: (4, 8),
        Operation.SOLARIZE: (0, 256),
    }
    for kind, (low, high) in ranges.items():
        drawn = np.sort(magnitude[operation == kind])
        assert drawn.min() >= low and drawn.max() < high
        gap = np.abs((drawn - low) / (high - low) - np.arange(len(drawn)) / len(drawn)).max()
        assert gap < 1.95 / math.sqrt(len(drawn))
    for kind in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y):
        shift = magnitude[operation == kind]
        assert set(shift.tolist()) == set(range(-10, 11))
        assert is_as_likely(int((shift == 0).sum()), len(shift), 1 / 19.2)
    for kind in (Operation.IDENTITY, Operation.AUTOCONTRAST, Operation.EQUALIZE):
        assert not magnitude[operation == kind].any()


def test_patches_lie_inside_and_have_up_to_half_the_side() -> None:
    for size in (32, 33, 1):
        top, left, tall, wide = views.patches(0, 0, MANY, size).T
        assert np.all((top >= 0) & (left >= 0) & (tall >= 0) & (wide >= 0))
        assert np.all((top + tall <= size) & (left + wide <= size))
        inner = (top > 0) & (left > 0) & (top + tall < size) & (left + wide < size)
        assert np.array_equal(tall[inner], wide[inner]) and max(tall.max(), wide.max()) == size // 2
    _, _, tall, wide = views.patches(0, 0, MANY, 32).T
    side = np.maximum(tall, wide)
    # A square whose centre lies a side or more from every border is whole: all 17 sides are equally likely there.
    top, left, _, _ = views.patches(0, 0, MANY, 32).T
    middle = (abs(top + tall // 2 - 16) < 8) & (abs(left + wide // 2 - 16) < 8)
    count = np.bincount(side[middle], minlength=17)
    assert all(is_as_likely(int(c), int(middle.sum()), 1 / 17) for c in count)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_scales_are_torchvisions(size: int) -> None:
    torchvision()
    from torchvision.transforms import AutoAugment, RandAugment

    number = {operation.name.replace("_", "").lower(): operation for operation in Operation}
    for transform, levels in ((AutoAugment(), 10), (RandAugment(), 31)):
        scale = views.op_magnitudes(levels, size)
        theirs = transform._augmentation_space(levels, (size, size))
        for name, (magnitude, signed) in theirs.items():
            operation = number[name.lower()]
            assert SIGNED[operation] == signed
            # torch.linspace rounds in float32.
            assert np.allclose(scale[operation], magnitude.double().numpy(), rtol=2e-6, atol=0)
        for operation in (Operation.TRANSLATE_X, Operation.POSTERIZE):
            name = operation.name.replace("_", "").title().replace("Translatex", "TranslateX")
            assert scale[operation].astype(int).tolist() == theirs[name][0].int().tolist()
        assert np.ceil(scale[Operation.SOLARIZE]).tolist() == theirs["Solarize"][0].ceil().tolist()
    assert [operation.name.replace("_", "").lower() for operation in Operation][:14] == [n.lower() for n in theirs]


def test_policies_are_torchvisions() -> None:
    torchvision()
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    for table, policy in ((CIFAR10, AutoAugmentPolicy.CIFAR10), (IMAGENET, AutoAugmentPolicy.IMAGENET)):
        theirs = [
            (a.lower(), round(10 * p), m or 0, b.lower(), round(10 * q), n or 0)
            for (a, p, m), (b, q, n) in AutoAugment(policy).policies
        ]
        ours = [
            (a.name.replace("_", "").lower(), p, m, b.name.replace("_", "").lower(), q, n) for a, p, m, b, q, n in table
        ]
        assert ours == theirs
