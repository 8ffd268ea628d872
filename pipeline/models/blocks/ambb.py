"""AMBB, the block of KDrefine's students: ACNet's block (arXiv:1908.03930) with its square branch three times.

y = sum_{i=1..3} BN_i(K_i * x) + BN_v(V * x) + BN_h(H * x), with K_i k x k, V k x 1, H 1 x k. The sum of five maps of
unit variance starts with a standard deviation of sqrt(5). ACTDB and TDB are older names of it in the same repository.
"""

from torch import Tensor

from pipeline.models.blocks import BLOCKS
from pipeline.models.blocks.algebra import Kernel, total
from pipeline.models.blocks.folding import Block, Branch, fold_pair


@BLOCKS.register("ambb", "actdb", "tdb")
class AMBB(Block):
    """Keys duplicate{1,2,3}.{conv,bn}, {ver,hor}_{conv,bn}; deployed tdb_reparam, as in KDrefine."""

    folded_name = "tdb_reparam"

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
        self.duplicate1 = Branch(self, kernel_size)
        self.duplicate2 = Branch(self, kernel_size)
        self.duplicate3 = Branch(self, kernel_size)
        self.ver_conv = self.part(kernel_size, 1)
        self.hor_conv = self.part(1, kernel_size)
        self.ver_bn = self.norm()
        self.hor_bn = self.norm()

    def branches(self, x_BCHW: Tensor) -> Tensor:
        square_BCHW = self.duplicate1(x_BCHW) + self.duplicate2(x_BCHW) + self.duplicate3(x_BCHW)
        return square_BCHW + self.ver_bn(self.ver_conv(x_BCHW)) + self.hor_bn(self.hor_conv(x_BCHW))

    def fold(self) -> Kernel:
        squares = (self.duplicate1, self.duplicate2, self.duplicate3)
        thin = ((self.ver_conv, self.ver_bn), (self.hor_conv, self.hor_bn))
        return total(
            *(square.fold(self.kernel_size) for square in squares),
            *(fold_pair(conv, norm, self.kernel_size) for conv, norm in thin),
        )
