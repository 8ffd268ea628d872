"""torchvision beside a CPU-only torch: the one place that knows the trap.

The package index's torchvision is a CUDA build. Beside a CPU torch its compiled operators cannot load, and its import
then looks two of them up (nms and qnms) and fails. Defining their schemas first lets models, transforms and data sets
work; calling the operators themselves still raises.
"""

import importlib
from types import ModuleType
from typing import Any

from torch.library import Library

_KEPT: list[Any] = []  # the schemas live as long as their Library object
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def torchvision() -> ModuleType:
    """The torchvision package. Raises ImportError when it is not installed."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "nms" not in str(error):
            raise
    if not _KEPT:
        library = Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + SCHEMA)
        _KEPT.append(library)
    return importlib.import_module("torchvision")
