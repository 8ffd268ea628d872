"""Every network of the registry with the image sizes it is made for, and the smallest one of each family."""

from functools import cache

import torch
from torch import nn

from pipeline.models import MODELS
from pipeline.models.build import build

ALL = MODELS.names()
CLASSES = 7
SMALL, LARGE = (32, 64), (64, 224)  # pixels: for CIFAR and Tiny-ImageNet; for Tiny-ImageNet and ImageNet


@cache
def facts(name: str) -> tuple[str, int]:
    """(class of the network with its block, parameters)."""
    with torch.device("meta"):
        network = build(name, num_classes=CLASSES)
    blocks = {type(m).__name__ for m in network.modules() if hasattr(m, "deploy")}
    family = f"{type(network).__module__.rpartition('.')[2]}.{type(network).__name__}{'+' * bool(blocks)}"
    return family, sum(p.numel() for p in network.parameters())


def sides(name: str) -> tuple[int, ...]:
    """Image sizes, in pixels, that the network is used at."""
    return LARGE if "imagenet" in facts(name)[0] else SMALL


def smallest() -> dict[str, str]:
    """The network with the fewest parameters, by family."""
    found: dict[str, str] = {}
    for name in sorted(ALL, key=lambda name: facts(name)[1]):
        found.setdefault(facts(name)[0], name)
    return found


def make(name: str) -> nn.Module:
    """A network with seeded first weights."""
    torch.manual_seed(0)
    return build(name, num_classes=CLASSES)


def image(batch: int, side: int) -> torch.Tensor:
    """Seeded noise [batch, 3, side, side]."""
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
