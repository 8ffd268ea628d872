"""What is asked of a library of networks, and the errors that its parts share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from pipeline.contracts import InputError
from pipeline.models.external.probe import one_line

T = TypeVar("T")
INSTALL = "pip install -e .[timm]"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Library(Protocol):
    """timm or torchvision. Names are without prefix and canonical."""

    def names(self) -> list[str]:
        """All image classifiers."""

    def canonical(self, name: str) -> str | None:
        """The name as the library writes it, None when it has none like it."""

    def build(self, name: str, *, num_classes: int, pretrained: bool, **options: Any) -> nn.Module:
        """The library's own network, whose forward returns logits. Raises InputError."""

    def image_size(self, network: nn.Module, name: str) -> int:
        """Pixels of a side that `network` takes."""

    def preprocessing(self, name: str) -> dict[str, Any]:
        """mean, std, image_size and interpolation of the pretrained weights."""

    def published_resize(self, name: str) -> int:
        """Pixels of the shorter side before the centre crop in evaluation."""

    def published_classes(self, name: str) -> int | None:
        """Of the pretrained weights, 0 where they have no classifier, None where that is not known."""


def checkpoint_path(file: str) -> Path:
    """Where torch.hub keeps a downloaded file of this name."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def missing(library: str) -> InputError:
    """For a library that is not installed."""
    return InputError(f"{library}:NAME needs {library}: {INSTALL}")


def constructed(make: Callable[[], T], name: str, options: dict[str, Any]) -> T:
    """make(), whatever a constructor raises on a wrong option being an InputError."""
    try:
        return make()
    except InputError:
        raise
    except Exception as error:  # each class checks its arguments in its own way: TypeError, assert, KeyError, ...
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        raise InputError(f"{name} cannot be built with {given}: {one_line(error)}") from None


def no_weights(name: str, source: str, files: list[str], error: Exception) -> InputError:
    """For weights that cannot be downloaded."""
    places = " or ".join(str(checkpoint_path(file)) for file in files)
    return InputError(f"no weights for {name}: {source} cannot be had ({one_line(error)}); put it at {places}")


def with_new_head(network: nn.Module, fresh: nn.Module) -> nn.Module:
    """`network` with the layers of `fresh`, alike but for the number of classes, whose parameters differ in shape."""
    shapes = {key: p.shape for key, p in network.named_parameters()}
    other = {key.rpartition(".")[0] for key, p in fresh.named_parameters() if p.shape != shapes[key]}
    for path in sorted(other):
        network.set_submodule(path, fresh.get_submodule(path))
    return network
