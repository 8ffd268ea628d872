"""ShuffleNet for CIFAR (Zhang et al., arXiv:1707.01083, table 1: 3 groups, 240 channels), as RepDistiller has it.

Keys as in RepDistiller's and mdistiller's ShuffleNetv1.py: conv1, bn1, layer{1,2,3}.i.{conv1,bn1,...,conv3,bn3}, and
linear. Initial weights: torch's defaults, as there. The stem is a 1x1 convolution, and the depthwise convolution is
activated (the paper's is not). Pools over the whole map; at 32 it is their avg_pool2d(4). With a re-parameterised block
(KDrefine's repShuffleNetv1.py) the depthwise convolution conv2 is one, and bn2 has no keys.
"""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import conv_bn, last_bns
from pipeline.models.common import global_mean, last_widths

STEM, GROUPS = 24, 3
WIDTHS, UNITS = (240, 480, 960), (4, 8, 4)


def shuffled(x_BCHW: Tensor, groups: int) -> Tensor:
    """Channel g n + i of n channels per group goes to i groups + g. Result in channels_last: one copy, not two."""
    return x_BCHW.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


class Unit(nn.Module):
    """1x1 in groups, shuffle, 3x3 depthwise, 1x1 in groups. Returns the map *before* its ReLU, which the stage applies.

    stride 2: the averaged input is appended, so that `out_channels` come out in all; stride 1: it is added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, block: str | None) -> None:
        super().__init__()
        made = out_channels - in_channels if stride == 2 else out_channels
        inner = made // 4
        self.stride = stride
        self.first_groups = 1 if in_channels == STEM else GROUPS
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=self.first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv_bn(block, inner, inner, 3, stride, groups=inner)
        self.conv3 = nn.Conv2d(inner, made, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(made)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        if self.first_groups > 1:
            out_BCHW = shuffled(out_BCHW, self.first_groups)
        out_BCHW = F.relu(self.bn2(self.conv2(out_BCHW)), inplace=True)
        out_BCHW = self.bn3(self.conv3(out_BCHW))
        if self.stride == 1:
            return out_BCHW + x_BCHW
        return torch.cat([out_BCHW, F.avg_pool2d(x_BCHW, 3, 2, padding=1)], dim=1)


class Stage(nn.Sequential):
    """Units of one width. Returns (relu of the last map, the last map)."""

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        preact_BCHW = x_BCHW
        for unit in self:
            preact_BCHW = unit(x_BCHW)
            x_BCHW = F.relu(preact_BCHW)
        return x_BCHW, preact_BCHW


def _stage(in_channels: int, out_channels: int, units: int, block: str | None) -> Stage:
    first = Unit(in_channels, out_channels, 2, block)
    return Stage(first, *(Unit(out_channels, out_channels, 1, block) for _ in range(units - 1)))


class CifarShuffleNet(nn.Module):
    """features: ReLU of the stem and of each stage; preact_features: the last sums before it (relu(preact) == feature).

    block: see `conv_bn`.
    """

    def __init__(self, *, num_classes: int, block: str | None = None) -> None:
        super().__init__()
        one, two, three = WIDTHS
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, one, UNITS[0], block)
        self.layer2 = _stage(one, two, UNITS[1], block)
        self.layer3 = _stage(two, three, UNITS[2], block)
        self.linear = nn.Linear(three, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """linear."""
        return self.linear

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the stem and of the three stages."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[conv1 + bn1, layer1, layer2, layer3]."""
        return [nn.Sequential(self.conv1, self.bn1), self.layer1, self.layer2, self.layer3]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last unit's bn3 of each stage, before the shortcut is added."""
        return last_bns(cast(Unit, stage[-1]).bn3 for stage in (self.layer1, self.layer2, self.layer3))

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 1, 2, 4, 8."""
        x_BCHW = F.relu(self.bn1(self.conv1(image_BCHW)), inplace=True)
        kept = [(x_BCHW, x_BCHW)] if features else []
        for stage in (self.layer1, self.layer2, self.layer3):
            x_BCHW, preact_BCHW = stage(x_BCHW)
            if features:
                kept.append((x_BCHW, preact_BCHW))
        pooled_BD = global_mean(x_BCHW)
        return ModelOutput(
            self.linear(pooled_BD), pooled_BD, tuple(post for post, _ in kept), tuple(preact for _, preact in kept)
        )


MODELS.register("shufflev1", "shufflenetv1")(CifarShuffleNet)
MODELS.register("repshufflev1", "repshufflenetv1")(partial(CifarShuffleNet, block="ambb"))
