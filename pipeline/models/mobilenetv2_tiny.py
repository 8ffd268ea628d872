"""MobileNetV2 for Tiny-ImageNet (Sandler et al., arXiv:1801.04381), as mdistiller has it.

Keys as in mdistiller's mv2_tinyimagenet.py: pre.{0,1}, stage{1,7}.residual.j, stage{2..6}.i.residual.j, conv1.{0,1},
conv2. All convolutions have biases. The stem is a 1x1 convolution with padding 1, so that 64 pixels become 66, with a
border that is the bias alone. Initial weights: torch's defaults, as there. Pools over the whole map. Their pooled_feat
is [B, 1280, 1, 1]; ours is flat.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.common import global_mean, last_widths

STEM, HEAD = 32, 1280
# Channels, blocks and first stride of stage2, ..., stage6; stage1 and stage7 are one block each.
GROUPS = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 1))
FIRST, LAST, EXPANSION = 16, 320, 6


class PointwiseLinear(nn.Linear):
    """nn.Linear whose weight is published, and stored, as that of a 1x1 convolution: [K, D, 1, 1].

    The first weights are the same draw: torch gives a 1x1 convolution the bounds of a linear layer.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach()[:, :, None, None])

    def forward(self, input: Tensor) -> Tensor:
        """[B, D] -> [B, K]."""
        return F.linear(input, self.weight.flatten(1), self.bias)


class LinearBottleneck(nn.Module):
    """1x1 to `expansion` times the width, 3x3 depthwise, 1x1 without activation; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.residual(x_BCHW) + x_BCHW if self.has_shortcut else self.residual(x_BCHW)


def _group(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = LinearBottleneck(in_channels, out_channels, stride, EXPANSION)
    others = (LinearBottleneck(out_channels, out_channels, 1, EXPANSION) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


def _activated(in_channels: int, out_channels: int, padding: int = 0) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 1, padding=padding)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


class TinyMobileNetV2(nn.Module):
    """features: the activated stem, the linear outputs of stage2, stage3 and stage4, and the activated conv1.

    preact_features: (), none are published.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.pre = _activated(3, STEM, padding=1)
        self.stage1 = LinearBottleneck(STEM, FIRST, 1, 1)
        channels = FIRST
        for i, (width, blocks, stride) in enumerate(GROUPS, start=2):
            self.add_module(f"stage{i}", _group(channels, width, blocks, stride))
            channels = width
        self.stage7 = LinearBottleneck(channels, LAST, 1, EXPANSION)
        self.conv1 = _activated(LAST, HEAD)
        self.conv2 = PointwiseLinear(HEAD, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """conv2; its weight is [K, 1280, 1, 1]."""
        return self.conv2

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the five features."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[pre, stage1 + stage2, stage3, stage4, stage5 + stage6 + stage7 + conv1]."""
        return [nn.Sequential(*part) for part in self._parts()]

    def _parts(self) -> tuple[tuple[nn.Module, ...], ...]:
        two, three, four, five, six = (cast(nn.Module, getattr(self, f"stage{i}")) for i in range(2, 7))
        return (self.pre,), (self.stage1, two), (three,), (four,), (five, six, self.stage7, self.conv1)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """[]: the last feature is activated, the others are not."""
        return []

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 1, 2, 4, 8, 8 of an image two pixels larger."""
        x_BCHW = image_BCHW
        kept = []
        for part in self._parts():
            for module in part:
                x_BCHW = module(x_BCHW)
            kept.append(x_BCHW)
        pooled_BD = global_mean(x_BCHW)
        return ModelOutput(self.conv2(pooled_BD), pooled_BD, tuple(kept) if features else ())


MODELS.register("tiny/mobilenetv2", "mobilenetv2_tiny")(TinyMobileNetV2)
