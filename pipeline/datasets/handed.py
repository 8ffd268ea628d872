"""What a data set's own code hands over as arrays, looked at once: labels are read, of pixels only type and shape."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError


def labels_of(where: str, label_N: Any, classes: int) -> NDArray[np.int64]:
    """`label_N` as int64 [N]; whole numbers of any type are taken. where: of the set, for the line.

    Raises InputError for what is no vector of whole numbers, and for a label outside 0 .. classes - 1.
    """
    given_N = np.asarray(label_N)
    if given_N.ndim != 1 or given_N.dtype.kind not in "iufb":
        kind = f"{given_N.dtype} [{', '.join(map(str, given_N.shape))}]"
        raise InputError(f"{where}: labels must be whole numbers [N], not {kind}")
    with np.errstate(invalid="ignore"):  # of NaN
        whole_N = given_N.astype(np.int64, copy=False)
    if given_N.dtype.kind == "f" and (odd_N := np.flatnonzero(whole_N != given_N)).size:
        raise InputError(f"{where}: label {given_N[odd_N[0]]} at position {odd_N[0]} is no whole number")
    if len(whole_N) and not (whole_N.min() >= 0 and whole_N.max() < classes):
        first = np.flatnonzero((whole_N < 0) | (whole_N >= classes))[0]
        known = f"of {classes} classes, 0 to {classes - 1}" if classes else "of no classes: class_names is empty"
        raise InputError(f"{where}: label {given_N[first]} at position {first} is none {known}")
    return whole_N


def check_array(where: str, pixels_NHWC: Any) -> None:
    """Raises InputError for what is no uint8 [N, H, W, 3] of at least one pixel."""
    shape = tuple(getattr(pixels_NHWC, "shape", ()))
    kind = str(pixels_NHWC.dtype) if isinstance(pixels_NHWC, np.ndarray) else type(pixels_NHWC).__name__
    if kind == "uint8" and len(shape) == 4 and shape[3] == 3 and min(shape[1:]) > 0:
        return
    hint = ""
    if len(shape) == 4 and shape[1] == 3 != shape[3]:
        hint = ": channels come last (pixels.transpose(0, 2, 3, 1))"
    elif len(shape) == 3 or (len(shape) == 4 and shape[3] == 1):
        hint = ": grey images need three equal channels"
    given = f"{kind} [{', '.join(map(str, shape))}]" if shape else kind
    raise InputError(f"{where}: pixels must be uint8 [N, H, W, 3], not {given}{hint}")


def check_counts(where: str, samples: int, labels: int, what: str) -> None:
    """Raises InputError where there is not one label for each sample. what: samples are, in the plural."""
    if samples != labels:
        raise InputError(f"{where}: {samples} {what} and {labels} labels")
