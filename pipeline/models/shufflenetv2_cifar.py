"""ShuffleNet V2 for CIFAR (Ma et al., arXiv:1807.11164, table 5, with strides for small images), RepDistiller's.

Keys as in RepDistiller's and mdistiller's ShuffleNetv2.py: conv1, bn1, layer{1,2,3}.0.{conv1,bn1,...,conv5,bn5},
layer{1,2,3}.i.{conv1,...,bn3}, conv2, bn2, linear. Initial weights: torch's defaults, as there. The stem is a 1x1
convolution. Pools over the whole map; at 32 it is their avg_pool2d(4) (at 64 theirs raises, R2KD's is ours). Widths of
shufflev2_2_0 as there: 224 where the paper's table has 244.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.common import global_mean, last_widths

STEM = 24


def interleaved(left_BCHW: Tensor, right_BCHW: Tensor) -> Tensor:
    """Channels of both in turn: their concatenation, shuffled in two groups. In channels_last: one copy, not two."""
    pair_BHWCG = torch.stack((left_BCHW.permute(0, 2, 3, 1), right_BCHW.permute(0, 2, 3, 1)), dim=4)
    return pair_BHWCG.flatten(3).permute(0, 3, 1, 2)


def _pointwise(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


class DownUnit(nn.Module):
    """Halves the map: both branches see all channels and give half of `out_channels` each."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1, self.bn1 = _depthwise(in_channels, 2), nn.BatchNorm2d(in_channels)
        self.conv2, self.bn2 = _pointwise(in_channels, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _pointwise(in_channels, half), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = _depthwise(half, 2), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = _pointwise(half, half), nn.BatchNorm2d(half)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        left_BCHW = self.bn2(self.conv2(self.bn1(self.conv1(x_BCHW))))
        right_BCHW = F.relu(self.bn3(self.conv3(x_BCHW)), inplace=True)
        right_BCHW = self.bn5(self.conv5(self.bn4(self.conv4(right_BCHW))))
        return interleaved(F.relu(left_BCHW), F.relu(right_BCHW))


class Unit(nn.Module):
    """The first half of the channels passes untouched. Returns (out, first half, second half before its ReLU)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = _pointwise(half, half), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = _depthwise(half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _pointwise(half, half), nn.BatchNorm2d(half)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        same_BCHW, other_BCHW = x_BCHW.chunk(2, dim=1)
        other_BCHW = F.relu(self.bn1(self.conv1(other_BCHW)), inplace=True)
        other_BCHW = self.bn3(self.conv3(self.bn2(self.conv2(other_BCHW))))
        return interleaved(same_BCHW, F.relu(other_BCHW)), same_BCHW, other_BCHW


class Stage(nn.Sequential):
    """A DownUnit and units of its width. Returns what the last one does."""

    def __init__(self, in_channels: int, out_channels: int, units: int) -> None:
        super().__init__(DownUnit(in_channels, out_channels), *(Unit(out_channels) for _ in range(units)))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, *others = self
        x_BCHW = first(x_BCHW)
        halves = x_BCHW, x_BCHW
        for unit in others:
            x_BCHW, *halves = unit(x_BCHW)
        return x_BCHW, *halves


class CifarShuffleNetV2(nn.Module):
    """widths: channels of the three stages and of conv2; units: how many each stage has after its first.

    features: the activated stem and each stage's shuffled output; preact_features: untouched half and BN output of the
    last unit, concatenated and, as published, NOT shuffled: relu(preact) is the feature with its channels permuted.
    conv2, between the last feature and the pooled vector, belongs to none.
    """

    def __init__(
        self, *, widths: tuple[int, int, int, int], units: tuple[int, int, int] = (3, 7, 3), num_classes: int
    ) -> None:
        super().__init__()
        one, two, three, head = widths
        self.conv1, self.bn1 = _pointwise(3, STEM), nn.BatchNorm2d(STEM)
        self.layer1 = Stage(STEM, one, units[0])
        self.layer2 = Stage(one, two, units[1])
        self.layer3 = Stage(two, three, units[2])
        self.conv2, self.bn2 = _pointwise(three, head), nn.BatchNorm2d(head)
        self.linear = nn.Linear(head, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """linear."""
        return self.linear

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the stem and of the three stages."""
        stem, *halves = last_widths(self.stages())
        return [stem, *(2 * half for half in halves)]

    def stages(self) -> list[nn.Module]:
        """[conv1 + bn1, layer1, layer2, layer3]."""
        return [nn.Sequential(self.conv1, self.bn1), self.layer1, self.layer2, self.layer3]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """[]: a pre-activation is a concatenation, and only half of it comes from a BN."""
        return []

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 1, 2, 4, 8."""
        x_BCHW = F.relu(self.bn1(self.conv1(image_BCHW)), inplace=True)
        kept = [(x_BCHW, x_BCHW)] if features else []
        for stage in (self.layer1, self.layer2, self.layer3):
            x_BCHW, *halves = stage(x_BCHW)
            if features:
                kept.append((x_BCHW, torch.cat(halves, dim=1)))
        pooled_BD = global_mean(F.relu(self.bn2(self.conv2(x_BCHW)), inplace=True))
        return ModelOutput(
            self.linear(pooled_BD), pooled_BD, tuple(post for post, _ in kept), tuple(preact for _, preact in kept)
        )


MODELS.register("cifar/shufflev2", "shufflev2_cifar", "shufflenetv2_cifar")(
    partial(CifarShuffleNetV2, widths=(116, 232, 464, 1024))
)
MODELS.register("shufflev2_0_2")(partial(CifarShuffleNetV2, widths=(40, 80, 160, 512), units=(3, 3, 3)))
MODELS.register("shufflev2_0_5")(partial(CifarShuffleNetV2, widths=(48, 96, 192, 1024)))
MODELS.register("shufflev2_1_5")(partial(CifarShuffleNetV2, widths=(176, 352, 704, 1024)))
MODELS.register("shufflev2_2_0")(partial(CifarShuffleNetV2, widths=(224, 488, 976, 2048)))
