"""The residual blocks of ImageNet ResNets and of their CIFAR forms (He et al., arXiv:1512.03385, figure 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.blocks import conv_bn, last_bns
from pipeline.models.resnet_cifar import Stage

REFERENCE_WIDTH = 64  # width_per_group is told for the first stage, which has 64 base channels


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the blocks of one network share.

    projection: published name of the shortcut's 1x1 convolution and BN. groups, width_per_group: of the bottleneck's
    3x3 convolution (ResNeXt, Wide ResNet). block: see `conv_bn`; the projection stays plain.
    """

    projection: str
    groups: int = 1
    width_per_group: int = REFERENCE_WIDTH
    block: str | None = None


class Residual(nn.Module):
    """A shortcut, projected where the shape changes. Returns the sum *before* its ReLU, which the stage applies."""

    expansion: int
    projection: str

    def add_shortcut(self, in_channels: int, out_channels: int, stride: int, name: str) -> None:
        """Registered last, as in the published codes: the order of keys is the order of modules."""
        shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
        self.add_module(name, shortcut)
        self.projection = name

    def carried(self, x_BCHW: Tensor) -> Tensor:
        """x_BCHW itself, or its projection."""
        return self.get_submodule(self.projection)(x_BCHW)

    def ending(self) -> nn.Module:
        """The layers whose output is added to the shortcut."""
        raise NotImplementedError


class BasicBlock(Residual):
    """Two 3x3 convolutions of `base` channels."""

    expansion = 1

    def __init__(self, in_channels: int, base: int, stride: int, form: Form) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(form.block, in_channels, base, 3, stride)
        self.conv2, self.bn2 = conv_bn(form.block, base, base, 3)
        self.add_shortcut(in_channels, base, stride, form.projection)

    def ending(self) -> nn.Module:
        return nn.Sequential(self.conv2, self.bn2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        return self.bn2(self.conv2(out_BCHW)) + self.carried(x_BCHW)


class Bottleneck(Residual):
    """1x1, 3x3, 1x1 to 4 base channels. The 3x3 has the stride ("v1.5"), as torchvision's and all published codes."""

    expansion = 4

    def __init__(self, in_channels: int, base: int, stride: int, form: Form) -> None:
        super().__init__()
        inner = base * form.width_per_group // REFERENCE_WIDTH * form.groups
        out_channels = base * self.expansion
        self.conv1, self.bn1 = conv_bn(form.block, in_channels, inner, 1)
        self.conv2, self.bn2 = conv_bn(form.block, inner, inner, 3, stride, form.groups)
        self.conv3, self.bn3 = conv_bn(form.block, inner, out_channels, 1)
        self.add_shortcut(in_channels, out_channels, stride, form.projection)

    def ending(self) -> nn.Module:
        return nn.Sequential(self.conv3, self.bn3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        out_BCHW = F.relu(self.bn2(self.conv2(out_BCHW)), inplace=True)
        return self.bn3(self.conv3(out_BCHW)) + self.carried(x_BCHW)


def four_stages(
    kind: type[BasicBlock] | type[Bottleneck], stem: int, base: int, counts: Sequence[int], form: Form
) -> list[Stage]:
    """Stages of base, 2, 4 and 8 base channels (times the expansion), the last three with stride 2."""
    stages = []
    in_channels = stem
    for i, count in enumerate(counts):
        width = base << i
        first = kind(in_channels, width, 1 if i == 0 else 2, form)
        in_channels = width * kind.expansion
        stages.append(Stage(first, *(kind(in_channels, width, 1, form) for _ in range(count - 1))))
    return stages


def run_stages(stages: Sequence[nn.Module], x_BCHW: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(ReLU of each stage's last sum, the sums themselves)."""
    features, preact_features = [], []
    for stage in stages:
        x_BCHW, preact_BCHW = stage(x_BCHW)
        features.append(x_BCHW)
        preact_features.append(preact_BCHW)
    return tuple(features), tuple(preact_features)


def ending_bns(stages: Sequence[nn.Module]) -> list[nn.BatchNorm2d]:
    """The BN that ends each stage's last block, before the shortcut is added; [] with a block of several branches."""
    lasts = [cast(Residual, cast(Stage, stage)[-1]) for stage in stages]
    return last_bns(last.ending() for last in lasts)
