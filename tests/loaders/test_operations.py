"""Operations on bytes against torchvision's, and the views made of them against a loop."""

import numpy as np
import pytest
from PIL import Image
from small_sets import MEAN, configured

from pipeline import views
from pipeline.loaders.augment_ops import apply, operated
from pipeline.utils.torchvision_compat import torchvision
from pipeline.views import Operation
from pipeline.views.operations import SIGNED

THEIRS = {
    Operation.IDENTITY: "Identity",
    Operation.SHEAR_X: "ShearX",
    Operation.SHEAR_Y: "ShearY",
    Operation.TRANSLATE_X: "TranslateX",
    Operation.TRANSLATE_Y: "TranslateY",
    Operation.ROTATE: "Rotate",
    Operation.BRIGHTNESS: "Brightness",
    Operation.COLOR: "Color",
    Operation.CONTRAST: "Contrast",
    Operation.SHARPNESS: "Sharpness",
    Operation.POSTERIZE: "Posterize",
    Operation.SOLARIZE: "Solarize",
    Operation.AUTOCONTRAST: "AutoContrast",
    Operation.EQUALIZE: "Equalize",
    Operation.INVERT: "Invert",
}


def pictures(size: int) -> list[Image.Image]:
    """Noise, a smooth picture of few colours, and one of a single colour."""
    rng = np.random.default_rng(size)
    noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
    smooth = Image.fromarray(rng.integers(60, 190, (4, 4, 3), dtype=np.uint8))
    return [noise, smooth.resize((size, size), Image.Resampling.BICUBIC), Image.new("RGB", (size, size), (9, 200, 77))]


@pytest.mark.parametrize("size", [32, 17])
@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)
def test_an_operation_is_torchvisions_to_the_bit(operation: Operation, size: int) -> None:
    torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    scale = np.concatenate([views.op_magnitudes(levels, size)[operation] for levels in (10, 31)])
    drawn, strong = views.ops(0, 0, np.arange(400), "strong", size)
    magnitudes = {*scale.tolist(), *strong[drawn == operation].tolist()}
    magnitudes |= {-m for m in magnitudes} if SIGNED[operation] else set()
    for picture in pictures(size):
        for magnitude in magnitudes:
            theirs = _apply_op(picture, THEIRS[operation], magnitude, InterpolationMode.NEAREST, None)
            assert np.array_equal(np.asarray(apply(picture, operation, magnitude)), np.asarray(theirs)), magnitude


@pytest.mark.parametrize("kind", views.OP_KINDS)
def test_a_view_is_its_operations_in_turn(kind: str) -> None:
    index = np.array([7, 70, 7, 12345])
    how = configured()
    pixels = np.stack([np.asarray(picture) for picture in (*pictures(16), pictures(16)[0])])
    before = pixels.copy()
    made = operated(pixels, index, 5, kind, how)
    assert np.array_equal(pixels, before)
    operation, magnitude = views.ops(how.data.seed, 5, index, kind, 16)
    for b in range(4):
        picture = Image.fromarray(pixels[b])
        for k in range(2):
            picture = apply(picture, int(operation[b, k]), float(magnitude[b, k]))
        expected = np.array(picture)
        if kind == "strong":
            top, left, tall, wide = views.patches(how.data.seed, 5, index, 16)[b]
            for y in range(top, top + tall):
                for x in range(left, left + wide):
                    expected[y, x] = [round(255 * m) for m in MEAN]
        assert np.array_equal(made[b], expected)
