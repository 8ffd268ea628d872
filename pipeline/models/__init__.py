"""Networks, one family per file, in the key layout of their published checkpoints."""

from collections.abc import Callable

from torch import nn

from pipeline.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", __name__)
