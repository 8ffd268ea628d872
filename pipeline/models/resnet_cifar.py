"""CIFAR ResNets, 6n + 2 layers of 3x3 basic blocks (He et al., arXiv:1512.03385, section 4.2), widths as published.

Keys as in RepDistiller's and mdistiller's resnet.py: conv1, bn1, layer{1,2,3}.i.{conv1,bn1,conv2,bn2,downsample.{0,1}},
fc. Initial weights: see `initialise`; fc keeps torch's default, as there. Pools over the whole map, so any image size
works; at 32 it is their AvgPool2d(8). Projection shortcuts (option B) where the shape changes.

With a re-parameterised block (KDrefine's represnet.py) the keys below conv1 and conv2 are the block's, bn1 and bn2 have
none, and the projection stays plain.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import conv_bn, last_bns
from pipeline.models.common import global_mean, initialise, last_widths


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Returns the sum *before* its ReLU, which the stage applies."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, block: str | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(block, in_channels, out_channels, 3, stride)
        self.conv2, self.bn2 = conv_bn(block, out_channels, out_channels, 3)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        out_BCHW = self.bn2(self.conv2(out_BCHW))
        return out_BCHW + (x_BCHW if self.downsample is None else self.downsample(x_BCHW))


class Stage(nn.Sequential):
    """Blocks of one width. Returns (relu of the last sum, the last sum)."""

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        sum_BCHW = x_BCHW
        for block in self:
            sum_BCHW = block(x_BCHW)
            x_BCHW = F.relu(sum_BCHW)
        return x_BCHW, sum_BCHW


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int, block: str | None) -> Stage:
    first = BasicBlock(in_channels, out_channels, stride, block)
    return Stage(first, *(BasicBlock(out_channels, out_channels, 1, block) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """depth = 6n + 2; widths: channels of the stem and the three stages; block: see `conv_bn`.

    features: ReLU of the stem and of each stage; preact_features: the stage sums before it (relu(preact) == feature).
    """

    def __init__(self, *, depth: int, widths: Sequence[int], num_classes: int, block: str | None = None) -> None:
        super().__init__()
        stem, first, second, third = widths
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = conv_bn(block, 3, stem, 3)
        self.layer1 = _stage(stem, first, 1, blocks, block)
        self.layer2 = _stage(first, second, 2, blocks, block)
        self.layer3 = _stage(second, third, 2, blocks, block)
        self.fc = nn.Linear(third, num_classes)
        initialise(self)

    @property
    def classifier(self) -> nn.Linear:
        """fc."""
        return self.fc

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the stem and of the three stages."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[conv1 + bn1, layer1, layer2, layer3]."""
        return [nn.Sequential(self.conv1, self.bn1), self.layer1, self.layer2, self.layer3]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last block's bn2 of each stage, before the shortcut is added; [] with a block of several branches."""
        lasts = [cast(BasicBlock, stage[-1]) for stage in (self.layer1, self.layer2, self.layer3)]
        return last_bns(nn.Sequential(last.conv2, last.bn2) for last in lasts)

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 1, 1, 2, 4."""
        x_BCHW = F.relu(self.bn1(self.conv1(image_BCHW)), inplace=True)
        kept = [(x_BCHW, x_BCHW)] if features else []
        for stage in (self.layer1, self.layer2, self.layer3):
            x_BCHW, preact_BCHW = stage(x_BCHW)
            if features:
                kept.append((x_BCHW, preact_BCHW))
        pooled_BD = global_mean(x_BCHW)
        return ModelOutput(
            self.fc(pooled_BD), pooled_BD, tuple(post for post, _ in kept), tuple(preact for _, preact in kept)
        )


NARROW, DOUBLE, WIDE, WIDEST = (16, 16, 32, 64), (16, 32, 64, 128), (32, 64, 128, 256), (64, 128, 256, 512)
for _depth in (8, 14, 20, 32, 38, 44, 56, 110, 116, 200):
    MODELS.register(f"resnet{_depth}", f"res{_depth}")(partial(CifarResNet, depth=_depth, widths=NARROW))
# KDrefine's "resnet50"; the name alone means the bottleneck network to the other repositories.
MODELS.register("resnet50_6n2", "res50_6n2")(partial(CifarResNet, depth=50, widths=NARROW))
for _depth in (14, 38, 110):
    MODELS.register(f"resnet{_depth}x2", f"res{_depth}x2")(partial(CifarResNet, depth=_depth, widths=DOUBLE))
for _depth in (8, 14, 20, 26, 32, 38, 44, 56, 110):
    MODELS.register(f"resnet{_depth}x4", f"res{_depth}x4")(partial(CifarResNet, depth=_depth, widths=WIDE))
# SemCKD's auxiliary teacher for HKD.
MODELS.register("resnet8x4_double", "res8x4_double")(partial(CifarResNet, depth=8, widths=WIDEST))
for _name, _depth, _widths in (("20", 20, NARROW), ("32", 32, NARROW), ("8x4", 8, WIDE)):
    _build = partial(CifarResNet, depth=_depth, widths=_widths, block="ambb")
    MODELS.register(f"represnet{_name}", f"repres{_name}")(_build)
