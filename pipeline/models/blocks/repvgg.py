"""RepVGG block (Ding et al., arXiv:2101.03697, section 3.3): k x k + 1 x 1 + identity, each with BN."""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.blocks import BLOCKS
from pipeline.models.blocks.algebra import Kernel, embed, identity_weight, kernel_of, margins, then_norm, total
from pipeline.models.blocks.folding import Block, Branch


@BLOCKS.register("repvgg")
class RepVGG(Block):
    """Keys rbr_identity (a BN, where the shape stays), rbr_{dense,1x1}.{conv,bn}; deployed rbr_reparam, as published.

    activate: end with a ReLU, as the authors' block does; here the network that uses a block applies its own.
    """

    folded_name = "rbr_reparam"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activate: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups)
        self.activate = activate
        left, right, top, bottom = (self.padding - m for m in margins(1, 1, kernel_size))
        self.rim = (left, right, top, bottom)
        keeps_shape = in_channels == out_channels and stride == 1
        self.rbr_identity: nn.BatchNorm2d | None = self.norm() if keeps_shape else None
        self.rbr_dense = Branch(self, kernel_size)
        self.rbr_1x1 = Branch(self, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        sum_BCHW = super().forward(x_BCHW)
        return F.relu(sum_BCHW) if self.activate else sum_BCHW

    def branches(self, x_BCHW: Tensor) -> Tensor:
        sum_BCHW = self.rbr_dense(x_BCHW) + self.rbr_1x1(x_BCHW)
        if self.rbr_identity is None:
            return sum_BCHW
        return sum_BCHW + self.rbr_identity(F.pad(x_BCHW, self.rim) if any(self.rim) else x_BCHW)

    def fold(self) -> Kernel:
        kernels = [branch.fold(self.kernel_size) for branch in (self.rbr_dense, self.rbr_1x1)]
        if self.rbr_identity is not None:
            same = kernel_of(identity_weight(self.in_channels, self.groups, self.rbr_identity.weight))
            kernels.append(embed(then_norm(same, self.rbr_identity), self.kernel_size))
        return total(*kernels)
