"""From a name to a network: which repository's network a shared name means, and the options it takes.

Published repositories use one name for several networks (ResNet18 with a CIFAR or an ImageNet stem, three MobileNetV2).
They are registered with a prefix (cifar/resnet18, imagenet/resnet18); `networks` says which one a bare name means.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline.contracts import InputError
from pipeline.models import MODELS
from pipeline.models.blurpool import add_blurpool
from pipeline.models.external import build_external, canonical_external
from pipeline.registry import UnknownName
from pipeline.utils.suggest import hint

# Where a bare name is looked for, in order. Of Tiny-ImageNet's networks only mdistiller's MobileNetV2 is no CIFAR one.
LOOKED_IN = {"cifar": ("cifar",), "tiny": ("tiny", "cifar"), "imagenet": ("imagenet",)}
# Options of every network, with their types.
OF_ALL: dict[str, Any] = {"blurpool": bool}
# KDrefine has both, told apart by case alone; the registry does not look at case.
TWO_MEANINGS = {
    ("cifar", "resnet50"): "ResNet50 (bottleneck, 23.7 M parameters; cifar/resnet50) or resnet50_6n2 (6n + 2, 0.76 M)"
}


def resolve(name: str, networks: str) -> str:
    """The registered name that `name` stands for. networks: cifar, tiny or imagenet. Raises UnknownName.

    A name with a prefix of ours (imagenet/resnet50) or of a library (timm:NAME, torchvision:NAME) means one thing only.
    """
    if ":" in name:
        return canonical_external(name)
    for scope in LOOKED_IN[networks] if "/" not in name else ():
        if (scope, name) in TWO_MEANINGS:
            raise UnknownName(f"model {name!r} means two networks here: give {TWO_MEANINGS[scope, name]}")
        if f"{scope}/{name}".lower() in MODELS.names():
            return f"{scope}/{name}".lower()
    elsewhere = [known for known in MODELS.names() if known.rpartition("/")[2] == name.lower() and "/" in known]
    if elsewhere and "/" not in name:
        raise UnknownName(f"model {name!r} is no {networks} network; did you mean {elsewhere[0]!r}?")
    return MODELS.canonical(name)


def options_of(name: str) -> dict[str, Any]:
    """The options that a registered network leaves open, with their types; what its name says (depth) is none."""
    make = MODELS.get(name)
    chosen = {*getattr(make, "keywords", {}), "num_classes"} - {"block"}
    return {key: one.annotation for key, one in inspect.signature(make).parameters.items() if key not in chosen}


def build(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """The network registered under `name` (or timm:NAME, torchvision:NAME) with first weights.

    options: its keyword arguments, such as block= or stem_feature=, and those of every network: blurpool= (see
    `add_blurpool`). Raises InputError for one that it does not have.
    """
    own = {option: value for option, value in options.items() if option not in OF_ALL}
    external = ":" in name  # whose library checks its own options
    for option, value in options.items():
        if option in OF_ALL or not external:
            _check(name, option, value, OF_ALL if external else options_of(name) | OF_ALL)
    make = partial(build_external, name) if external else MODELS.get(name)
    network: nn.Module = make(num_classes=num_classes, **own)
    if options.get("blurpool"):
        add_blurpool(network, name)
    return network


def _check(name: str, option: str, value: Any, known: Mapping[str, Any]) -> None:
    if option not in known:
        names = ", ".join(known)
        raise InputError(f"model {name} has no option {option!r}{hint(option, list(known))} (known: {names})")
    try:
        TypeAdapter(known[option]).validate_python(value, strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"model {name}, option {option}={value!r}: {reason[0].lower()}{reason[1:]}") from None
