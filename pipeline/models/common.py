"""What the families share: the questions that methods and tools may ask of a network, pooling, initial weights."""

import math
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from pipeline.contracts import ModelOutput


@runtime_checkable
class Network(Protocol):
    """What every network of this package answers. Nothing of it adds a key to the state dict.

    features[0] is the stem's output and features[i] that of stage i; preact_features[0] is features[0] itself, as in
    all published codes. Both are () unless asked for. Asking changes neither the logits nor any BN statistic.
    """

    @property
    def classifier(self) -> nn.Linear:
        """The last layer, pooled_BD -> logits_BK, whatever its published name."""

    @property
    def stage_channels(self) -> list[int]:
        """Channels of each entry of `features`, the stem first; read off the layers."""

    def stages(self) -> list[nn.Module]:
        """One module per entry of `features`, holding the weights between it and the entry before."""

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """One BN per stage after the stem: its output is preact_features[i], or becomes it by adding the shortcut.

        Of a network without preact_features it ends features[i] in the same sense. [] where several layers share an
        end (a concatenation, a block with several branches), or where some features are activated and others not.
        """

    def __call__(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """Any image size that leaves at least one pixel after the strides."""


def last_widths(stages: list[nn.Module]) -> list[int]:
    """Output channels of the last convolution in each module."""
    return [[m for m in stage.modules() if isinstance(m, nn.Conv2d)][-1].out_channels for stage in stages]


def reachable_as(name: str, layer: nn.Linear) -> nn.Linear:
    """`layer`, made its own attribute `name`. No module, parameter or key is added.

    For a network whose published last layer is classifier.1 and whose property `classifier` covers that Sequential:
    torch.export and torch.func.functional_call walk such a key attribute by attribute.
    """
    layer.__dict__[name] = layer
    return layer


def global_mean(map_BCHW: Tensor) -> Tensor:
    """Mean over the whole map. (AdaptiveAvgPool2d has no deterministic backward on CUDA; a mean has.)"""
    return map_BCHW.mean(dim=(2, 3))


def initialise(network: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (kh kw C_out))) with bias 0; BN weight 1, bias 0; Linear is left as torch makes it.

    The published codes write this as kaiming_normal_(fan_out, relu) in resnet.py and by hand in wrn.py and vgg.py: the
    same distribution.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            kh, kw = module.kernel_size
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (kh * kw * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
