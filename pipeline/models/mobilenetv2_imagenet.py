"""MobileNetV2 for ImageNet (Sandler et al., arXiv:1801.04381, table 2), as torchvision and SimKD have it.

Keys as there: features.0.{0,1}, features.i.conv.j, features.18.{0,1}, classifier.1; torchvision's mobilenet_v2 files
load. Initial weights: see `initialise`; classifier weight N(0, 0.01), bias 0, as there. Pools over the whole map.
"""

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import last_bns
from pipeline.models.common import global_mean, initialise, last_widths, reachable_as

# Expansion, channels, blocks and first stride of each group.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD = 32, 1280
CUTS = (0, 1, 4, 7, 14, 18)  # SimKD's: the stem, then what lies before each stride of 2, and before the last layer


def _activated(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the width (none if 1), 3x3 depthwise, 1x1 without activation; a shortcut if it fits."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(_activated(in_channels, inner, 1))
        self.conv.append(_activated(inner, inner, 3, stride, groups=inner))
        self.conv.append(nn.Conv2d(inner, out_channels, 1, bias=False))
        self.conv.append(nn.BatchNorm2d(out_channels))
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.conv(x_BCHW) if self.has_shortcut else self.conv(x_BCHW)


class ImageNetMobileNetV2(nn.Module):
    """dropout: rate between the pooled vector and the classifier in training, 0.2 as published; pooled_BD is before it.

    features: the activated stem, then the linear outputs of features.3, .6, .13 and .17, signed; features.18, between
    the last of them and the pooled vector, belongs to none. preact_features: (), since no activation comes last.
    """

    def __init__(self, *, num_classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.ModuleList([_activated(3, STEM, 3, 2)])
        channels = STEM
        for expansion, width, count, first in GROUPS:
            for stride in (first, *(1,) * (count - 1)):
                self.features.append(InvertedResidual(channels, width, stride, expansion))
                channels = width
        self.features.append(_activated(channels, HEAD, 1))
        # The published key is classifier.1 and the contract's classifier the layer itself: a property covers this name.
        last = reachable_as("1", nn.Linear(HEAD, num_classes))
        self._modules["classifier"] = nn.Sequential(nn.Dropout(dropout), last)
        initialise(self)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def classifier(self) -> nn.Linear:
        """classifier.1."""
        return cast(nn.Linear, self._head()[1])

    def _head(self) -> nn.Sequential:
        return cast(nn.Sequential, self._modules["classifier"])

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the stem and of the four linear outputs."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """features cut at 1, 4, 7, 14 and 18."""
        return [nn.Sequential(*self.features[start:end]) for start, end in pairwise(CUTS)]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The BN that ends features.3, .6, .13 and .17, before the shortcut is added."""
        return last_bns(cast(InvertedResidual, self.features[end - 1]).conv for end in CUTS[2:])

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 2, 4, 8, 16, 32."""
        x_BCHW = image_BCHW
        kept = []
        for start, end in pairwise(CUTS):
            for layer in self.features[start:end]:
                x_BCHW = layer(x_BCHW)
            kept.append(x_BCHW)
        pooled_BD = global_mean(self.features[CUTS[-1]](x_BCHW))
        return ModelOutput(self._head()(pooled_BD), pooled_BD, tuple(kept) if features else ())


MODELS.register("imagenet/mobilenetv2", "mobilenetv2_imagenet")(ImageNetMobileNetV2)
