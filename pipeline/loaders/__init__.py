"""Pixels on the device, in the order and the windows that the law of views gives."""

from collections.abc import Callable

from pipeline.contracts import Loader
from pipeline.registry import Registry

# Called as LOADERS.get(name)(image_set, plan).
LOADERS: Registry[Callable[..., Loader]] = Registry("loader", __name__)
