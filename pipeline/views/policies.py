"""The sub-policies that AutoAugment found (Cubuk et al. 2019, arXiv 1805.09501, tables 7 and 9).

A row: first operation, its chance in tenths, its level of 0..9, then the same of the second. Operations without a
strength have level 0.
"""

from enum import IntEnum


class Operation(IntEnum):
    """What can be done to an image of bytes. Numbers are part of the law: append, never renumber."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    COLOR = 7
    CONTRAST = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTOCONTRAST = 12
    EQUALIZE = 13
    INVERT = 14


O = Operation  # noqa: E741
Row = tuple[Operation, int, int, Operation, int, int]

CIFAR10: tuple[Row, ...] = (
    (O.INVERT, 1, 0, O.CONTRAST, 2, 6),
    (O.ROTATE, 7, 2, O.TRANSLATE_X, 3, 9),
    (O.SHARPNESS, 8, 1, O.SHARPNESS, 9, 3),
    (O.SHEAR_Y, 5, 8, O.TRANSLATE_Y, 7, 9),
    (O.AUTOCONTRAST, 5, 0, O.EQUALIZE, 9, 0),
    (O.SHEAR_Y, 2, 7, O.POSTERIZE, 3, 7),
    (O.COLOR, 4, 3, O.BRIGHTNESS, 6, 7),
    (O.SHARPNESS, 3, 9, O.BRIGHTNESS, 7, 9),
    (O.EQUALIZE, 6, 0, O.EQUALIZE, 5, 0),
    (O.CONTRAST, 6, 7, O.SHARPNESS, 6, 5),
    (O.COLOR, 7, 7, O.TRANSLATE_X, 5, 8),
    (O.EQUALIZE, 3, 0, O.AUTOCONTRAST, 4, 0),
    (O.TRANSLATE_Y, 4, 3, O.SHARPNESS, 2, 6),
    (O.BRIGHTNESS, 9, 6, O.COLOR, 2, 8),
    (O.SOLARIZE, 5, 2, O.INVERT, 0, 0),
    (O.EQUALIZE, 2, 0, O.AUTOCONTRAST, 6, 0),
    (O.EQUALIZE, 2, 0, O.EQUALIZE, 6, 0),
    (O.COLOR, 9, 9, O.EQUALIZE, 6, 0),
    (O.AUTOCONTRAST, 8, 0, O.SOLARIZE, 2, 8),
    (O.BRIGHTNESS, 1, 3, O.COLOR, 7, 0),
    (O.SOLARIZE, 4, 5, O.AUTOCONTRAST, 9, 0),
    (O.TRANSLATE_Y, 9, 9, O.TRANSLATE_Y, 7, 9),
    (O.AUTOCONTRAST, 9, 0, O.SOLARIZE, 8, 3),
    (O.EQUALIZE, 8, 0, O.INVERT, 1, 0),
    (O.TRANSLATE_Y, 7, 9, O.AUTOCONTRAST, 9, 0),
)

IMAGENET: tuple[Row, ...] = (
    (O.POSTERIZE, 4, 8, O.ROTATE, 6, 9),
    (O.SOLARIZE, 6, 5, O.AUTOCONTRAST, 6, 0),
    (O.EQUALIZE, 8, 0, O.EQUALIZE, 6, 0),
    (O.POSTERIZE, 6, 7, O.POSTERIZE, 6, 6),
    (O.EQUALIZE, 4, 0, O.SOLARIZE, 2, 4),
    (O.EQUALIZE, 4, 0, O.ROTATE, 8, 8),
    (O.SOLARIZE, 6, 3, O.EQUALIZE, 6, 0),
    (O.POSTERIZE, 8, 5, O.EQUALIZE, 10, 0),
    (O.ROTATE, 2, 3, O.SOLARIZE, 6, 8),
    (O.EQUALIZE, 6, 0, O.POSTERIZE, 4, 6),
    (O.ROTATE, 8, 8, O.COLOR, 4, 0),
    (O.ROTATE, 4, 9, O.EQUALIZE, 6, 0),
    (O.EQUALIZE, 0, 0, O.EQUALIZE, 8, 0),
    (O.INVERT, 6, 0, O.EQUALIZE, 10, 0),
    (O.COLOR, 6, 4, O.CONTRAST, 10, 8),
    (O.ROTATE, 8, 8, O.COLOR, 10, 2),
    (O.COLOR, 8, 8, O.SOLARIZE, 8, 7),
    (O.SHARPNESS, 4, 7, O.INVERT, 6, 0),
    (O.SHEAR_X, 6, 5, O.EQUALIZE, 10, 0),
    (O.COLOR, 4, 0, O.EQUALIZE, 6, 0),
    (O.EQUALIZE, 4, 0, O.SOLARIZE, 2, 4),
    (O.SOLARIZE, 6, 5, O.AUTOCONTRAST, 6, 0),
    (O.INVERT, 6, 0, O.EQUALIZE, 10, 0),
    (O.COLOR, 6, 4, O.CONTRAST, 10, 8),
    (O.EQUALIZE, 8, 0, O.EQUALIZE, 6, 0),
)
