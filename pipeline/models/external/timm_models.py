"""timm's classifiers: names (with or without the tag of their weights), constructors, weights and preprocessing."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from pipeline.contracts import InputError
from pipeline.models.external.library import checkpoint_path, constructed, missing, no_weights
from pipeline.utils.torchvision_compat import torchvision


def _timm() -> Any:
    try:
        torchvision()  # first: timm imports it, which fails beside a CPU torch unless torchvision_compat has seen to it
        import timm
    except ImportError:
        raise missing("timm") from None
    return timm


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of a download that is tried several times; the error tells it once."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Timm:
    """Library of timm. NAME.TAG chooses among the published weights of NAME."""

    def names(self) -> list[str]:
        """As timm lists them, without tags."""
        return list(_timm().list_models())

    def canonical(self, name: str) -> str | None:
        """Case does not matter. A tag must be one that timm knows."""
        timm = _timm()
        base, dot, _ = name.lower().partition(".")
        known = timm.models.is_model(base) and (not dot or name.lower() in timm.models.get_arch_pretrained_cfgs(base))
        return name.lower() if known else None

    def build(self, name: str, *, num_classes: int, pretrained: bool, **options: Any) -> nn.Module:
        """timm's own adaptation of the weights to another number of classes: a new head."""
        make = _timm().create_model
        arguments = {"num_classes": num_classes, **options}
        network: nn.Module = constructed(lambda: make(name, **arguments), f"timm:{name}", options)
        if not pretrained:
            return network
        source, files = self._source(name)
        if source is None:
            raise InputError(f"timm publishes no weights for timm:{name}")
        here = next((checkpoint_path(file) for file in files if checkpoint_path(file).is_file()), None)
        if here is not None:
            arguments["pretrained_cfg_overlay"] = {"file": str(here), "custom_load": False}
        try:
            with _quiet():
                return make(name, pretrained=True, **arguments)
        except Exception as error:  # the same options were good above: it is the download, or what it brought
            raise no_weights(f"timm:{name}", str(here or source), files, error) from None

    def image_size(self, network: nn.Module, name: str) -> int:
        """That of the patch embedding where there is one, of the weights otherwise."""
        sizes = [getattr(module, "img_size", None) for module in (network, *network.children())]
        fixed = next((size for size in sizes if isinstance(size, tuple)), None)
        return int(fixed[-1] if fixed else self.preprocessing(name)["image_size"])

    def preprocessing(self, name: str) -> dict[str, Any]:
        """Of the weights that the tag names, or the default ones."""
        config = _timm().get_pretrained_cfg(name)
        return {
            "mean": tuple(config.mean),
            "std": tuple(config.std),
            "image_size": int(config.input_size[-1]),
            "interpolation": config.interpolation,
        }

    def published_resize(self, name: str) -> int:
        """The image size over the share that timm crops out."""
        config = _timm().get_pretrained_cfg(name)
        return int(config.input_size[-1] / (config.crop_pct or 1))

    def published_classes(self, name: str) -> int | None:
        """Of the weights that the tag names, or the default ones."""
        return int(_timm().get_pretrained_cfg(name).num_classes)

    @staticmethod
    def _source(name: str) -> tuple[str | None, list[str]]:
        """(address of the weights, names under which their file may lie in torch.hub's folder)."""
        config = _timm().get_pretrained_cfg(name)
        base, tag = name.partition(".")[0], config.tag
        files = [f"{base}.{tag}.safetensors" if tag else f"{base}.safetensors"]
        if config.url:
            files.append(config.url.rpartition("/")[2])
        hub = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else None
        return hub or config.url or None, files
