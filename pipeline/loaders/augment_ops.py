"""Views made of the ordinary one by operations on bytes, with Pillow: AutoAugment, RandAugment, FixMatch's strong one.

At equal magnitude an operation is torchvision's, to the bit: pixels from outside are black, sampling is nearest.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from pipeline import views
from pipeline.loaders.config import LoaderConfig
from pipeline.views import Operation

Picture = Image.Image


def _affine(image: Picture, across: tuple[float, float, float], down: tuple[float, float, float]) -> Picture:
    """Source column and row as linear functions of the target's: (per column, per row, at 0) each."""
    return image.transform(image.size, Image.Transform.AFFINE, (*across, *down), Image.Resampling.NEAREST)


_APPLY: dict[Operation, Callable[[Picture, float], Picture]] = {
    Operation.SHEAR_X: lambda image, m: _affine(image, (1, m, 0), (0, 1, 0)),
    Operation.SHEAR_Y: lambda image, m: _affine(image, (1, 0, 0), (m, 1, 0)),
    Operation.TRANSLATE_X: lambda image, m: _affine(image, (1, 0, -int(m)), (0, 1, 0)),
    Operation.TRANSLATE_Y: lambda image, m: _affine(image, (1, 0, 0), (0, 1, -int(m))),
    Operation.ROTATE: lambda image, m: image.rotate(m, Image.Resampling.NEAREST),
    Operation.BRIGHTNESS: lambda image, m: ImageEnhance.Brightness(image).enhance(1.0 + m),
    Operation.COLOR: lambda image, m: ImageEnhance.Color(image).enhance(1.0 + m),
    Operation.CONTRAST: lambda image, m: ImageEnhance.Contrast(image).enhance(1.0 + m),
    Operation.SHARPNESS: lambda image, m: ImageEnhance.Sharpness(image).enhance(1.0 + m),
    Operation.POSTERIZE: lambda image, m: ImageOps.posterize(image, int(m)),
    Operation.SOLARIZE: lambda image, m: ImageOps.solarize(image, m),  # type: ignore[arg-type]
    Operation.AUTOCONTRAST: lambda image, _: ImageOps.autocontrast(image),
    Operation.EQUALIZE: lambda image, _: ImageOps.equalize(image),
    Operation.INVERT: lambda image, _: ImageOps.invert(image),
}

# By kind, what the view is greyed with after its operations.
_PATCHES = {"strong": views.patches}


def apply(image: Picture, operation: int, magnitude: float) -> Picture:
    """The image after an operation (views.Operation), magnitude in its unit (pipeline.views.operations)."""
    do = _APPLY.get(Operation(operation))
    return image if do is None else do(image, magnitude)


def operated(
    pixels_BHWC: NDArray[np.uint8], index_B: NDArray[np.int64], view: int, kind: str, config: LoaderConfig
) -> NDArray[np.uint8]:
    """uint8 [B, S, S, 3]: the view of `kind` (one of views.OP_KINDS) made of the finished pixels of the ordinary one.

    A grey patch has the colour data.mean: about 0 once normalised.
    """
    size = pixels_BHWC.shape[1]
    operation_B2, magnitude_B2 = views.ops(config.data.seed, view, index_B, kind, size)
    made = np.empty_like(pixels_BHWC)
    for b, (operations, magnitudes) in enumerate(zip(operation_B2.tolist(), magnitude_B2.tolist(), strict=True)):
        image = Image.fromarray(np.ascontiguousarray(pixels_BHWC[b]))
        for operation, magnitude in zip(operations, magnitudes, strict=True):
            image = apply(image, operation, magnitude)
        made[b] = np.asarray(image)
    if kind in _PATCHES:
        grey = np.rint(255 * np.array(config.data.mean)).astype(np.uint8)
        for b, (top, left, tall, wide) in enumerate(_PATCHES[kind](config.data.seed, view, index_B, size).tolist()):
            made[b, top : top + tall, left : left + wide] = grey
    return made
