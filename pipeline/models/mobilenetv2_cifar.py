"""MobileNetV2 for CIFAR (Sandler et al., arXiv:1801.04381, table 2, other strides), as RepDistiller has it.

Keys as in RepDistiller's and mdistiller's mobilenetv2.py: conv1.{0,1}, blocks.i.j.conv.{0,1,3,4,6,7}, conv2.{0,1},
classifier.0. Initial weights: see `initialise`; classifier weight N(0, 0.01), bias 0, as there. ReLU, not ReLU6. Pools
over the whole map; at 32 it is their AvgPool2d(2), at 64 R2KD's AvgPool2d(4). With a re-parameterised block (KDrefine's
repmobilenetv2.py) each convolution and its BN are one entry: conv1.0, conv2.0 and blocks.i.j.conv.{0,2,4}, the 1x1
convolutions as ConvBN.
"""

from functools import partial
from typing import cast

from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import conv_bn_layers, last_bns
from pipeline.models.common import global_mean, initialise, last_widths

# Expansion, channels, blocks and first stride of each group.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD = 32, 1280
PARTS = ((0, 1), (2,), (3, 4), (5, 6))  # groups that make up each feature


def _activated(block: str | None, in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn_layers(block, in_channels, out_channels, size, stride), nn.ReLU(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the width, 3x3 depthwise, 1x1 without activation; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, block: str | None) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.conv = nn.Sequential(
            *conv_bn_layers(block, in_channels, inner, 1),
            nn.ReLU(inplace=True),
            *conv_bn_layers(block, inner, inner, 3, stride, groups=inner),
            nn.ReLU(inplace=True),
            *conv_bn_layers(block, inner, out_channels, 1),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.conv(x_BCHW) if self.has_shortcut else self.conv(x_BCHW)


class Classifier(nn.Linear):
    """A linear layer that keeps weight and bias in a child called 0, for the published keys are classifier.0.*."""

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)  # past nn.Linear's: it would register parameters of its own
        self.in_features, self.out_features = in_features, out_features
        self.add_module("0", nn.Linear(in_features, out_features))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out_features, in_features]."""
        return cast(nn.Linear, self.get_submodule("0")).weight

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        """[out_features]."""
        return cast(nn.Linear, self.get_submodule("0")).bias


class CifarMobileNetV2(nn.Module):
    """width: factor on all channels but the 1280 before the classifier; block: see `conv_bn`.

    features: the activated stem, then the linear outputs of blocks[1], [2], [4] and [6], signed; conv2, between the
    last of them and the pooled vector, belongs to none. preact_features: (), since no activation comes last.
    """

    def __init__(self, *, width: float, num_classes: int, block: str | None = None) -> None:
        super().__init__()
        channels = int(STEM * width)
        self.conv1 = _activated(block, 3, channels, 3, 2)
        self.blocks = nn.ModuleList()
        for expansion, base, count, first in GROUPS:
            group = nn.Sequential()
            for stride in (first, *(1,) * (count - 1)):
                group.append(InvertedResidual(channels, int(base * width), stride, expansion, block))
                channels = int(base * width)
            self.blocks.append(group)
        self.conv2 = _activated(block, channels, HEAD, 1)
        self.classifier = Classifier(HEAD, num_classes)
        initialise(self)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def stage_channels(self) -> list[int]:
        """Channels of conv1 and of the four linear outputs."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[conv1, blocks[0:2], blocks[2], blocks[3:5], blocks[5:7]]; conv2 belongs to none."""
        return [self.conv1, *(nn.Sequential(*(self.blocks[i] for i in part)) for part in PARTS)]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The BN that ends the last block of blocks[1], [2], [4] and [6], before its shortcut is added."""
        ends = [cast(nn.Sequential, self.blocks[part[-1]])[-1] for part in PARTS]
        return last_bns(cast(InvertedResidual, end).conv for end in ends)

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 2, 2, 4, 8, 16."""
        x_BCHW = self.conv1(image_BCHW)
        kept = [x_BCHW]
        for part in PARTS:
            for i in part:
                x_BCHW = self.blocks[i](x_BCHW)
            kept.append(x_BCHW)
        pooled_BD = global_mean(self.conv2(x_BCHW))
        return ModelOutput(self.classifier(pooled_BD), pooled_BD, tuple(kept) if features else ())


_half = partial(CifarMobileNetV2, width=0.5)
MODELS.register("cifar/mobilenetv2", "mobilenetv2_cifar", "mv2", "mobilev2")(_half)
MODELS.register("mobilenetv2_1_0")(partial(CifarMobileNetV2, width=1.0))
MODELS.register("repmobilenetv2", "repmv2")(partial(CifarMobileNetV2, width=0.5, block="ambb"))
