"""torchvision's classifiers: names, constructors, weights and what their weights expect of an image."""

import inspect
from typing import Any

from torch import nn

from pipeline.contracts import InputError
from pipeline.models.external.library import IMAGENET, constructed, missing, no_weights, with_new_head
from pipeline.utils.torchvision_compat import torchvision

WEIGHTS = "IMAGENET1K_V1"
IMAGE_SIZE = 224


def _models() -> Any:
    try:
        return torchvision().models
    except ImportError:
        raise missing("torchvision") from None


class Torchvision:
    """Library of torchvision.models (the classifiers; not detection, segmentation, quantised, video)."""

    def names(self) -> list[str]:
        """As torchvision lists them."""
        models = _models()
        return list(models.list_models(module=models))

    def canonical(self, name: str) -> str | None:
        """Case does not matter."""
        return name.lower() if name.lower() in self.names() else None

    def build(self, name: str, *, num_classes: int, pretrained: bool, **options: Any) -> nn.Module:
        """Without auxiliary heads, whose outputs in training would be a tuple."""
        fixed = self._fixed(name)
        make = _models().get_model_builder(name)
        fresh: nn.Module = constructed(
            lambda: make(weights=None, num_classes=num_classes, **fixed, **options), f"torchvision:{name}", options
        )
        if not pretrained:
            return fresh
        weights = self._weights(name)
        if weights is None:
            raise InputError(f"torchvision publishes no weights for torchvision:{name}")
        fixed.pop("init_weights", None)
        try:
            network: nn.Module = make(weights=weights, **fixed, **options)
        except Exception as error:  # the same options were good above: it is the download, or what it brought
            file = weights.url.rpartition("/")[2]
            raise no_weights(f"torchvision:{name}", weights.url, [file], error) from None
        return with_new_head(network, fresh)

    def image_size(self, network: nn.Module, name: str) -> int:
        """That of the constructor where there is one (ViT), of the weights otherwise."""
        return int(getattr(network, "image_size", self.preprocessing(name)["image_size"]))

    def preprocessing(self, name: str) -> dict[str, Any]:
        """Of IMAGENET1K_V1, or the first weights there are; ImageNet's where there are none."""
        weights = self._weights(name)
        if weights is None:
            return {**IMAGENET, "image_size": IMAGE_SIZE, "interpolation": "bilinear"}
        preset = weights.transforms()
        return {
            "mean": tuple(preset.mean),
            "std": tuple(preset.std),
            "image_size": int(preset.crop_size[0]),
            "interpolation": preset.interpolation.value,
        }

    def published_resize(self, name: str) -> int:
        """Of the weights' own transforms."""
        weights = self._weights(name)
        return IMAGE_SIZE if weights is None else int(weights.transforms().resize_size[0])

    def published_classes(self, name: str) -> int | None:
        """Of IMAGENET1K_V1, or the first weights there are."""
        weights = self._weights(name)
        return None if weights is None else len(weights.meta["categories"])

    @staticmethod
    def _weights(name: str) -> Any:
        kinds = _models().get_model_weights(name)
        return kinds[WEIGHTS] if WEIGHTS in kinds.__members__ else next(iter(kinds), None)

    @staticmethod
    def _fixed(name: str) -> dict[str, Any]:
        """No auxiliary heads, and the published initialisation, where the class has these options."""
        kind = inspect.signature(_models().get_model_builder(name)).return_annotation
        known = inspect.signature(kind).parameters if inspect.isclass(kind) else {}
        return {key: value for key, value in (("aux_logits", False), ("init_weights", True)) if key in known}
