"""What every re-parameterisable block is: linear branches in training, one convolution afterwards."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.blocks.algebra import Kernel, embed, kernel_of, margins, then_norm


class Block(nn.Module):
    """A kernel_size x kernel_size convolution with batch norm in several branches; subclasses own the branches.

    padding: pixels of zeros on each side; None: kernel_size // 2. `deploy()` replaces the branches by one convolution
    with bias, called `folded_name` as in the published deployed checkpoints; in eval mode it gives the same numbers.
    """

    folded_name: ClassVar[str]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.groups = stride, groups
        self.padding = kernel_size // 2 if padding is None else padding
        self.deployed = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, out_channels, H', W'] with H' = (H + 2 padding - kernel_size) // stride + 1."""
        if self.deployed:
            return getattr(self, self.folded_name)(x_BCHW)
        return self.branches(x_BCHW)

    def branches(self, x_BCHW: Tensor) -> Tensor:
        """The sum of the branches."""
        raise NotImplementedError

    def fold(self) -> Kernel:
        """The one convolution that does what the branches do in eval mode, in float64."""
        raise NotImplementedError

    def single_norm(self) -> nn.BatchNorm2d | None:
        """The batch norm whose output is the block's, None where there are several, or none any more."""
        return None

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold in place: branches out, convolution in, on the same device, in the same dtype and memory format.

        What is folded already stays as it is.
        """
        if self.deployed:
            return
        kernel = self.fold()
        like = next(p for p in self.parameters() if p.shape == kernel.weight_OIHW.shape)
        # Made on meta: torch would draw first weights, and folding must not move the random numbers of a run.
        conv = nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
            groups=self.groups, device="meta",
        )  # fmt: skip
        trains = any(p.requires_grad for p in self.parameters())
        conv.weight = nn.Parameter(torch.empty_like(like).copy_(kernel.weight_OIHW), trains)
        conv.bias = nn.Parameter(kernel.bias_O.to(like.dtype), trains)
        for name in list(self._modules):
            delattr(self, name)
        self.add_module(self.folded_name, conv.train(self.training))
        self.deployed = True

    def part(self, height: int, width: int) -> "PartialConv2d":
        """A convolution with a smaller kernel in the place and with the stride, padding and groups of the block's."""
        return PartialConv2d(self, height, width)

    def norm(self) -> nn.BatchNorm2d:
        """A batch norm of the block's output."""
        return nn.BatchNorm2d(self.out_channels)


class PartialConv2d(nn.Conv2d):
    """The convolution of `block` with all of its kernel zero but for height x width in the centre. No bias."""

    def __init__(self, block: Block, height: int, width: int) -> None:
        left, right, top, bottom = (block.padding - m for m in margins(height, width, block.kernel_size))
        even = left == right >= 0 and top == bottom >= 0
        super().__init__(
            block.in_channels, block.out_channels, (height, width), block.stride, (top, left) if even else 0,
            groups=block.groups, bias=False,
        )  # fmt: skip
        # Negative entries crop: with less padding than half a kernel, the small kernel never sees the rim.
        self.rim = None if even else (left, right, top, bottom)

    def forward(self, input: Tensor) -> Tensor:
        """Any size that the whole kernel fits in."""
        return super().forward(input if self.rim is None else F.pad(input, self.rim))


class Branch(nn.Module):
    """Convolution and batch norm, under the keys conv and bn."""

    def __init__(self, block: Block, size: int) -> None:
        super().__init__()
        self.conv = block.part(size, size)
        self.bn = block.norm()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.bn(self.conv(x_BCHW))

    def fold(self, size: int) -> Kernel:
        """The branch as a size x size convolution."""
        return fold_pair(self.conv, self.bn, size)


def fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d, size: int) -> Kernel:
    """A convolution without bias and the batch norm after it, as a size x size convolution."""
    return embed(then_norm(kernel_of(conv.weight), norm), size)
