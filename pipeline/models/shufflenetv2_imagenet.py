"""ShuffleNet V2 1x for ImageNet (Ma et al., arXiv:1807.11164, table 5), as torchvision has it.

Keys as there: conv1.{0,1}, stage{2,3,4}.i.{branch1,branch2}.j, conv5.{0,1}, fc; torchvision's shufflenet_v2_x1_0 files
load. SimKD's ShuffleV2_Imagenet has all keys but those of conv5, which its forward needs, so that it cannot run; ours
has them, and the features that its forward would give. Initial weights: torch's defaults, as there. Pools over the
whole map.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.common import global_mean, last_widths
from pipeline.models.shufflenetv2_cifar import interleaved

STEM, WIDTHS, HEAD = 24, (116, 232, 464), 1024
UNITS = (4, 8, 4)


def _activated(in_channels: int, out_channels: int, size: int = 1, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]


class DownUnit(nn.Module):
    """Halves the map: both branches see all channels and give half of `out_channels` each."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.branch1 = nn.Sequential(*_depthwise(in_channels, 2), *_activated(in_channels, half))
        self.branch2 = nn.Sequential(*_activated(in_channels, half), *_depthwise(half, 2), *_activated(half, half))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return interleaved(self.branch1(x_BCHW), self.branch2(x_BCHW))


class Unit(nn.Module):
    """The first half of the channels passes untouched."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch2 = nn.Sequential(*_activated(half, half), *_depthwise(half, 1), *_activated(half, half))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        same_BCHW, other_BCHW = x_BCHW.chunk(2, dim=1)
        return interleaved(same_BCHW, self.branch2(other_BCHW))


def _stage(in_channels: int, out_channels: int, units: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_channels, out_channels), *(Unit(out_channels) for _ in range(units - 1)))


class ImageNetShuffleNetV2(nn.Module):
    """features: the pooled stem, stage2, stage3 and the activated conv5 (behind stage4), as in SimKD's forward.

    preact_features: (), none are published.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        two, three, four = WIDTHS
        self.conv1 = nn.Sequential(*_activated(3, STEM, 3, 2))
        self.stage2 = _stage(STEM, two, UNITS[0])
        self.stage3 = _stage(two, three, UNITS[1])
        self.stage4 = _stage(three, four, UNITS[2])
        self.conv5 = nn.Sequential(*_activated(four, HEAD))
        self.fc = nn.Linear(HEAD, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """fc."""
        return self.fc

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the four features."""
        stem, half_two, half_three, last = last_widths(self.stages())
        return [stem, 2 * half_two, 2 * half_three, last]

    def stages(self) -> list[nn.Module]:
        """[conv1, stage2, stage3, stage4 + conv5]."""
        return [self.conv1, self.stage2, self.stage3, nn.Sequential(self.stage4, self.conv5)]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """[]: the outputs of stage2 and stage3 are concatenations, and only half of each comes from a BN."""
        return []

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 4, 8, 16, 32."""
        stem_BCHW = F.max_pool2d(self.conv1(image_BCHW), 3, 2, padding=1)
        two_BCHW = self.stage2(stem_BCHW)
        three_BCHW = self.stage3(two_BCHW)
        last_BCHW = self.conv5(self.stage4(three_BCHW))
        pooled_BD = global_mean(last_BCHW)
        kept = (stem_BCHW, two_BCHW, three_BCHW, last_BCHW)
        return ModelOutput(self.fc(pooled_BD), pooled_BD, kept if features else ())


MODELS.register("imagenet/shufflev2", "shufflev2_imagenet", "shufflenetv2_x1_0")(ImageNetShuffleNetV2)
