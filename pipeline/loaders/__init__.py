"""Pixels on the device, in the order and the windows that the law of views gives."""

from typing import Any

from pipeline.registry import Registry

# Classes, called as LOADERS.get(name)(image_set, config, **options); options: the keys of data.<section>.
LOADERS: Registry[Any] = Registry("loader", __name__)
