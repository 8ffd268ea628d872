"""Wide residual networks for CIFAR (Zagoruyko and Komodakis, arXiv:1605.07146): pre-activation blocks, 6n + 4 layers.

Keys as in RepDistiller's and mdistiller's wrn.py: conv1, block{1,2,3}.layer.i.{bn1,conv1,bn2,conv2,convShortcut}, bn1,
fc. Initial weights: see `initialise`; fc bias 0, fc weight torch's default, as there. No dropout (their rate is 0).
Pools over the whole map; at 32 it is their avg_pool2d(8).
"""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.common import global_mean, initialise, last_widths


class WideBlock(nn.Module):
    """BN-ReLU-conv twice. Where the width changes, the shortcut is a 1x1 convolution of the activated input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.convShortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(raw sum, bn1(x)): the latter is the pre-activation feature of whatever made x."""
        normed_BCHW = self.bn1(x_BCHW)
        active_BCHW = F.relu(normed_BCHW)
        out_BCHW = F.relu(self.bn2(self.conv1(active_BCHW)), inplace=True)
        shortcut_BCHW = x_BCHW if self.convShortcut is None else self.convShortcut(active_BCHW)
        return self.conv2(out_BCHW) + shortcut_BCHW, normed_BCHW


class WideStage(nn.Module):
    """Blocks of one width. Returns (raw sum of the last block, first block's bn1 of the input)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, blocks: int) -> None:
        super().__init__()
        first = WideBlock(in_channels, out_channels, stride)
        self.layer = nn.Sequential(first, *(WideBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        first, *others = self.layer
        x_BCHW, normed_BCHW = first(x_BCHW)
        for block in others:
            x_BCHW, _ = block(x_BCHW)
        return x_BCHW, normed_BCHW


class WideResNet(nn.Module):
    """depth = 6n + 4, widen: factor on the widths 16, 32, 64.

    features: conv1's output and the RAW block sums, neither normalised nor activated; preact_features: the same maps
    after the BN that comes next (of the next stage's first block; for the last one bn1), taken from its one and only
    call. mdistiller calls these three BNs again for them, whether wanted or not, which in training moves their running
    statistics twice per step: `double_bn_update=True` does the same, for comparison with what it trains.
    """

    def __init__(self, *, depth: int, widen: int, num_classes: int, double_bn_update: bool = False) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.double_bn_update = double_bn_update
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = WideStage(16, 16 * widen, 1, blocks)
        self.block2 = WideStage(16 * widen, 32 * widen, 2, blocks)
        self.block3 = WideStage(32 * widen, 64 * widen, 2, blocks)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        initialise(self)
        nn.init.zeros_(self.fc.bias)

    @property
    def classifier(self) -> nn.Linear:
        """fc."""
        return self.fc

    @property
    def stage_channels(self) -> list[int]:
        """Channels of conv1 and of the three stages."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[conv1, block1, block2, block3]; the last BN belongs to none, as in the published two-stage methods."""
        return [self.conv1, self.block1, self.block2, self.block3]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """[first bn1 of block2, first bn1 of block3, bn1]: each normalises the raw sum of the stage before it."""
        firsts = (cast(WideBlock, block.layer[0]) for block in (self.block2, self.block3))
        return [*(first.bn1 for first in firsts), self.bn1]

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 1, 1, 2, 4."""
        stem_BCHW = self.conv1(image_BCHW)
        one_BCHW, _ = self.block1(stem_BCHW)
        two_BCHW, normed_one_BCHW = self.block2(one_BCHW)
        three_BCHW, normed_two_BCHW = self.block3(two_BCHW)
        normed_three_BCHW = self.bn1(three_BCHW)
        pooled_BD = global_mean(F.relu(normed_three_BCHW))
        if self.double_bn_update and self.training:
            self._update_again(one_BCHW, two_BCHW, three_BCHW)
        output = ModelOutput(self.fc(pooled_BD), pooled_BD)
        if not features:
            return output
        return output._replace(
            features=(stem_BCHW, one_BCHW, two_BCHW, three_BCHW),
            preact_features=(stem_BCHW, normed_one_BCHW, normed_two_BCHW, normed_three_BCHW),
        )

    @torch.no_grad()
    def _update_again(self, *maps: Tensor) -> None:
        for norm, map_BCHW in zip(self.bn_before_relu(), maps, strict=True):
            norm(map_BCHW)


for _depth, _widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
    _spellings = (f"wrn{_depth}_{_widen}", f"wrn-{_depth}-{_widen}", f"wrn{_depth}-{_widen}")
    MODELS.register(f"wrn_{_depth}_{_widen}", *_spellings)(partial(WideResNet, depth=_depth, widen=_widen))
