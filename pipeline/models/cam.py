"""Networks in class-activation form (CAT-KD): the classifier as a 1x1 convolution before the spatial mean.

The mean over space and a linear layer commute, so that the form computes what the network computes; it only shows the
map of each class on the way. A student trained in it is the plain network: parameters and keys are the network's own.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import InputError, ModelOutput
from pipeline.models.common import Network, global_mean

CLOSE = 1e-4  # relative: the same sums in another order


class Tap:
    """Forward hook that keeps the last output of one module; an object, so that deepcopy follows it."""

    def __init__(self) -> None:
        self.map_BCHW: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.map_BCHW = output


def _pools_to(map_BCHW: Tensor, pooled_BD: Tensor) -> bool:
    if map_BCHW.ndim != 4 or map_BCHW.shape[1] != pooled_BD.shape[1] or map_BCHW.shape[2:].numel() == 1:
        return False
    return bool((global_mean(map_BCHW) - pooled_BD).abs().max() <= CLOSE * pooled_BD.abs().max())


def _last_feature(output: ModelOutput) -> Tensor:
    return output.features[-1]


def _last_activated(output: ModelOutput) -> Tensor:
    return F.relu(output.preact_features[-1])


def _probe(network: nn.Module, side: int) -> tuple[ModelOutput, dict[str, Tensor]]:
    """One pass in eval mode: the output, and each submodule's last map in the order of the calls."""
    maps: dict[str, Tensor] = {}

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            maps.pop(path, None)
            maps[path] = output

    was_training = network.training
    network.eval()
    like = next(network.parameters())
    # Any image will do; a fixed one leaves the random numbers of the run alone.
    image_BCHW = torch.linspace(0, 40, 3 * side * side).sin().reshape(1, 3, side, side).to(like)
    with ExitStack() as hooks, torch.no_grad():
        for path, module in network.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(keep, path)))
        output = network(image_BCHW, features=True)
    network.train(was_training)
    return output, maps


class CamNetwork(nn.Module):
    """`network` with the maps of its classes as one further feature, cam_BKHW; logits_BK is their spatial mean.

    bias: False drops the classifier's: it becomes 0 and is frozen, so that the network alone still computes the same.
    side: pixels of the image that finds the map which the network pools: its last feature, that feature's activation,
    or the output of a layer after it (MobileNetV2's last convolution belongs to no stage). Raises InputError where the
    classifier's input is the mean of no map. Parameters, buffers and keys are the network's (the very dictionaries).
    """

    network: nn.Module

    def __init__(self, network: nn.Module, *, bias: bool = True, side: int = 64) -> None:
        super().__init__()
        shared = {key: network.__dict__[key] for key in ("_modules", "_parameters", "_buffers")}
        shared |= {"_non_persistent_buffers_set": network.__dict__["_non_persistent_buffers_set"]}
        self.__dict__.update(shared, network=network, training=network.training)
        self.tap: Tap | None = None
        self.pick = self._find(*_probe(network, side))
        if not bias and self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias.requires_grad_(False))

    def _find(self, output: ModelOutput, maps: dict[str, Tensor]) -> Callable[[ModelOutput], Tensor] | None:
        """How to get at the pooled map; None: by a tap on a module."""
        if output.features and _pools_to(_last_feature(output), output.pooled_BD):
            return _last_feature
        if output.preact_features and _pools_to(_last_activated(output), output.pooled_BD):
            return _last_activated
        for activate in (False, True):
            for path in reversed(maps):
                if _pools_to(F.relu(maps[path]) if activate else maps[path], output.pooled_BD):
                    self.tap, self.tap_activated = Tap(), activate
                    self.network.get_submodule(path).register_forward_hook(self.tap)
                    return None
        raise InputError(f"{type(self.network).__name__} has no class activation maps: it pools no map of its own")

    @property
    def classifier(self) -> nn.Linear:
        """The network's."""
        return cast(Network, self.network).classifier

    @property
    def stage_channels(self) -> list[int]:
        """The network's, then the classes."""
        return [*cast(Network, self.network).stage_channels, self.classifier.out_features]

    def stages(self) -> list[nn.Module]:
        """The network's, then its classifier."""
        return [*cast(Network, self.network).stages(), self.classifier]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The network's."""
        return cast(list[nn.BatchNorm2d], cast(Any, self.network).bn_before_relu())

    def train(self, mode: bool = True) -> "CamNetwork":
        """Of the network too, which may ask for its own mode."""
        self.network.training = mode
        return super().train(mode)

    def _pooled_map(self, output: ModelOutput) -> Tensor:
        if self.pick is not None:
            return self.pick(output)
        assert self.tap is not None and self.tap.map_BCHW is not None
        map_BCHW, self.tap.map_BCHW = self.tap.map_BCHW, None
        return F.relu(map_BCHW) if self.tap_activated else map_BCHW

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: the network's, then cam_BKHW; without them, the network's very output."""
        output: ModelOutput = self.network(image_BCHW, features=features)
        if not features:
            if self.tap is not None:
                self.tap.map_BCHW = None  # neither kept alive nor in the way of a copy
            return output
        layer = self.classifier
        weight_KD11 = layer.weight.flatten(1)[:, :, None, None]  # some published classifiers are 1x1 convolutions
        cam_BKHW = F.conv2d(self._pooled_map(output), weight_KD11, layer.bias)
        return output._replace(logits_BK=global_mean(cam_BKHW), features=(*output.features, cam_BKHW))


FORMS: dict[str, Callable[..., CamNetwork]] = {
    "cam": CamNetwork,
    "cam_without_bias": partial(CamNetwork, bias=False),
}
"""Forms by the names that methods ask for."""
