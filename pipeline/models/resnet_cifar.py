"""CIFAR ResNets, 6n + 2 layers of 3x3 basic blocks (He et al., arXiv:1512.03385, section 4.2), widths as published.

Keys as in RepDistiller's and mdistiller's resnet.py: conv1, bn1, layer{1,2,3}.i.{conv1,bn1,conv2,bn2,downsample.{0,1}},
fc. Initial weights: see `initialise`; fc keeps torch's default, as there. Pools over the whole map, so any image size
works; at 32 it is their AvgPool2d(8). Projection shortcuts (option B) where the shape changes.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.common import global_mean, initialise, last_widths


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Returns the sum *before* its ReLU, which the stage applies."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
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


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int) -> Stage:
    first = BasicBlock(in_channels, out_channels, stride)
    return Stage(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """depth = 6n + 2; widths: channels of the stem and the three stages.

    features: ReLU of the stem and of each stage; preact_features: the stage sums before it (relu(preact) == feature).
    """

    def __init__(self, *, depth: int, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        stem, first, second, third = widths
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, first, 1, blocks)
        self.layer2 = _stage(first, second, 2, blocks)
        self.layer3 = _stage(second, third, 2, blocks)
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


for _depth in (8, 14, 20, 32, 44, 56, 110):
    _build = partial(CifarResNet, depth=_depth, widths=(16, 16, 32, 64))
    MODELS.register(f"resnet{_depth}", f"res{_depth}")(_build)
for _depth in (8, 32):
    _build = partial(CifarResNet, depth=_depth, widths=(32, 64, 128, 256))
    MODELS.register(f"resnet{_depth}x4", f"res{_depth}x4")(_build)
