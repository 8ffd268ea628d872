"""Diverse branch block (Ding et al., arXiv:2103.13425, section 3.2): four branches, each ending in a BN.

k x k;  1 x 1;  1 x 1 -> BN -> k x k average;  1 x 1 -> BN -> k x k. Behind an inner BN, zeros around the image become
its answer to zero: that BN pads its own output with it, which makes the fold exact at the borders. As in the authors'
code, no gradient passes through these border values.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.blocks import BLOCKS
from pipeline.models.blocks.algebra import (
    Kernel,
    identity_weight,
    kernel_of,
    then_average,
    then_conv,
    then_norm,
    total,
)
from pipeline.models.blocks.folding import Block, Branch


class PaddedNorm(nn.Module):
    """Batch norm (key bn), then `padding` pixels on each side, filled with its answer to zero."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.padding = padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner_BCHW = self.bn(x_BCHW)
        if not self.padding:
            return inner_BCHW
        sides = (self.padding,) * 4
        inside_11HW = F.pad(inner_BCHW.new_ones(1, 1, *inner_BCHW.shape[2:]), sides) > 0
        return torch.where(inside_11HW, F.pad(inner_BCHW, sides), self._of_zero().to(inner_BCHW.dtype))

    @torch.no_grad()
    def _of_zero(self) -> Tensor:
        """[1, C, 1, 1], by the running statistics, in training too: the fold will know no others."""
        bn = self.bn
        assert bn.running_mean is not None and bn.running_var is not None
        return (bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps))[None, :, None, None]


class IdentityConv(nn.Module):
    """1x1 convolution whose weight is added to the identity; it starts at zero, and the map at doing nothing."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(channels, channels // groups, 1, 1))

    def kernel(self, dtype: torch.dtype) -> Tensor:
        """weight_OI11, identity included."""
        weight_OI11 = self.weight.to(dtype)
        return weight_OI11 + identity_weight(len(weight_OI11), self.groups, weight_OI11)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.conv2d(x_BCHW, self.kernel(self.weight.dtype), groups=self.groups)


class Average(nn.Module):
    """conv (1x1) -> bn -> mean over k x k -> avgbn; a depthwise block has the last two alone."""

    def __init__(self, block: Block, depthwise: bool) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.channels = (
            block.kernel_size, block.stride, block.padding, block.out_channels,
        )  # fmt: skip
        self.conv: nn.Conv2d | None = None
        if not depthwise:
            self.conv = nn.Conv2d(block.in_channels, block.out_channels, 1, groups=block.groups, bias=False)
            self.bn = PaddedNorm(block.out_channels, block.padding)
        self.avgbn = block.norm()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        padded_BCHW = F.pad(x_BCHW, (self.padding,) * 4) if self.conv is None else self.bn(self.conv(x_BCHW))
        return self.avgbn(F.avg_pool2d(padded_BCHW, self.size, self.stride))

    def fold(self) -> Kernel:
        """As a k x k convolution."""
        if self.conv is None:
            pointwise = kernel_of(identity_weight(self.channels, self.channels, self.avgbn.weight))
        else:
            pointwise = then_norm(kernel_of(self.conv.weight), self.bn.bn)
        return then_norm(then_average(pointwise, self.size), self.avgbn)


class PointwiseFirst(nn.Module):
    """idconv1 or conv1 (1x1 to mid_channels) -> bn1 -> conv2 (k x k) -> bn2."""

    def __init__(self, block: Block, mid_channels: int) -> None:
        super().__init__()
        self.groups = block.groups
        self.keeps_width = mid_channels == block.in_channels
        if self.keeps_width:
            self.idconv1 = IdentityConv(mid_channels, block.groups)
        else:
            self.conv1 = nn.Conv2d(block.in_channels, mid_channels, 1, groups=block.groups, bias=False)
        self.bn1 = PaddedNorm(mid_channels, block.padding)
        self.conv2 = nn.Conv2d(
            mid_channels, block.out_channels, block.kernel_size, block.stride, groups=block.groups, bias=False
        )
        self.bn2 = block.norm()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mid_BCHW = self.idconv1(x_BCHW) if self.keeps_width else self.conv1(x_BCHW)
        return self.bn2(self.conv2(self.bn1(mid_BCHW)))

    def fold(self) -> Kernel:
        """As a k x k convolution."""
        weight_OI11 = self.idconv1.kernel(torch.float64) if self.keeps_width else self.conv1.weight
        first = then_norm(kernel_of(weight_OI11), self.bn1.bn)
        return then_conv(first, then_norm(kernel_of(self.conv2.weight), self.bn2), self.groups)


@BLOCKS.register("dbb")
class DBB(Block):
    """Keys dbb_origin, dbb_avg, dbb_1x1 (not where depthwise), dbb_1x1_kxk; deployed dbb_reparam, as published.

    mid_channels: width between the two convolutions of the last branch; None: in_channels, twice that where depthwise.
    """

    folded_name = "dbb_reparam"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        mid_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups)
        depthwise = groups == in_channels == out_channels
        self.dbb_origin = Branch(self, kernel_size)
        self.dbb_avg = Average(self, depthwise)
        self.dbb_1x1: Branch | None = None if depthwise else Branch(self, 1)
        self.dbb_1x1_kxk = PointwiseFirst(self, mid_channels or in_channels * (1 + depthwise))

    def branches(self, x_BCHW: Tensor) -> Tensor:
        sum_BCHW = self.dbb_origin(x_BCHW) + self.dbb_avg(x_BCHW) + self.dbb_1x1_kxk(x_BCHW)
        return sum_BCHW if self.dbb_1x1 is None else sum_BCHW + self.dbb_1x1(x_BCHW)

    def fold(self) -> Kernel:
        kernels = [self.dbb_origin.fold(self.kernel_size), self.dbb_avg.fold(), self.dbb_1x1_kxk.fold()]
        if self.dbb_1x1 is not None:
            kernels.append(self.dbb_1x1.fold(self.kernel_size))
        return total(*kernels)
