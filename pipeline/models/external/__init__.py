"""timm:NAME and torchvision:NAME: any image classifier of these libraries as teacher or student.

Neither library is imported before a name asks for it. Stage features are found by running the network once without
arithmetic (probe.py); nothing here knows a single architecture.
"""

from typing import Any

from pipeline.models.external.adapter import External
from pipeline.models.external.library import Library
from pipeline.models.external.probe import examine
from pipeline.models.external.timm_models import Timm
from pipeline.models.external.torchvision_models import Torchvision
from pipeline.registry import UnknownName
from pipeline.utils.suggest import hint

LIBRARIES: dict[str, Library] = {"timm": Timm(), "torchvision": Torchvision()}


def canonical_external(name: str) -> str:
    """timm:NAME or torchvision:NAME as the library writes it. Raises UnknownName, with the nearest known name."""
    prefix, _, rest = name.partition(":")
    library = _library(prefix)
    found = library.canonical(rest)
    if found is None:
        known = library.names()
        raise UnknownName(f"unknown model {name!r}{hint(rest, known)} ({prefix} has {len(known)})")
    return f"{prefix.lower()}:{found}"


def build_external(name: str, *, num_classes: int, pretrained: bool = False, **options: Any) -> External:
    """The network `name` (timm:NAME, torchvision:NAME) with first or published weights and the contract of Network.

    options: to the library's constructor. pretrained: torchvision's IMAGENET1K_V1, timm's default or the tag in the
    name; with another number of classes than theirs the last layer starts anew. Raises UnknownName, InputError.
    """
    prefix, _, rest = canonical_external(name).partition(":")
    library = LIBRARIES[prefix]
    network = library.build(rest, num_classes=num_classes, pretrained=pretrained, **options)
    side = library.image_size(network, rest)
    anatomy = examine(network, name=f"{prefix}:{rest}", num_classes=num_classes, side=side)
    return External(network, anatomy, f"{prefix}:{rest}")


def preprocessing(name: str) -> dict[str, Any] | None:
    """What the published weights of `name` expect: {mean, std, image_size, interpolation}; None without a prefix.

    mean, std: three numbers each, pixels in 0..1; image_size: pixels; interpolation: bilinear or bicubic.
    """
    if ":" not in name:
        return None
    prefix, _, rest = canonical_external(name).partition(":")
    return LIBRARIES[prefix].preprocessing(rest)


def published_resize(name: str) -> int:
    """Pixels of the shorter side before the centre crop, as the published weights of `name` were evaluated."""
    prefix, _, rest = canonical_external(name).partition(":")
    return LIBRARIES[prefix].published_resize(rest)


def published_classes(name: str) -> int | None:
    """Classes of the published weights of `name`, 0 where they have no classifier; None where that is not known."""
    prefix, _, rest = canonical_external(name).partition(":")
    return LIBRARIES[prefix].published_classes(rest)


def _library(prefix: str) -> Library:
    if prefix.lower() not in LIBRARIES:
        near = hint(prefix, list(LIBRARIES))
        raise UnknownName(f"unknown library {prefix!r} of models{near} (known: {', '.join(LIBRARIES)})")
    return LIBRARIES[prefix.lower()]
