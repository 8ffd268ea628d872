"""ConvBN: the plain block of the family, one convolution and its batch norm, folded into a convolution with bias."""

from torch import Tensor, nn

from pipeline.models.blocks import BLOCKS
from pipeline.models.blocks.algebra import Kernel
from pipeline.models.blocks.folding import Block, fold_pair


@BLOCKS.register("convbn", "base")
class ConvBN(Block):
    """Keys conv, bn; deployed conv with bias, as in KDrefine."""

    folded_name = "conv"

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
        self.conv = self.part(kernel_size, kernel_size)
        self.bn = self.norm()

    def branches(self, x_BCHW: Tensor) -> Tensor:
        return self.bn(self.conv(x_BCHW))

    def fold(self) -> Kernel:
        return fold_pair(self.conv, self.bn, self.kernel_size)

    def single_norm(self) -> nn.BatchNorm2d | None:
        return None if self.deployed else self.bn
