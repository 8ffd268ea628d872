"""Asymmetric convolution block, ACNet (Ding et al., arXiv:1908.03930, sec. 3.3): k x k, k x 1 and 1 x k, each with BN.

With padding < kernel_size // 2 the two thin branches see a cropped image, so that the fold is exact for any padding.
"""

from torch import Tensor

from pipeline.models.blocks import BLOCKS
from pipeline.models.blocks.algebra import Kernel, total
from pipeline.models.blocks.folding import Block, fold_pair


@BLOCKS.register("acb")
class ACB(Block):
    """Keys {square,ver,hor}_{conv,bn}; deployed fused_conv, as in the authors' code."""

    folded_name = "fused_conv"

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
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups)
        self.square_conv = self.part(kernel_size, kernel_size)
        self.square_bn = self.norm()
        self.ver_conv = self.part(kernel_size, 1)
        self.hor_conv = self.part(1, kernel_size)
        self.ver_bn = self.norm()
        self.hor_bn = self.norm()

    def branches(self, x_BCHW: Tensor) -> Tensor:
        square_BCHW = self.square_bn(self.square_conv(x_BCHW))
        return square_BCHW + self.ver_bn(self.ver_conv(x_BCHW)) + self.hor_bn(self.hor_conv(x_BCHW))

    def fold(self) -> Kernel:
        pairs = (
            (self.square_conv, self.square_bn),
            (self.ver_conv, self.ver_bn),
            (self.hor_conv, self.hor_bn),
        )
        return total(*(fold_pair(conv, norm, self.kernel_size) for conv, norm in pairs))
