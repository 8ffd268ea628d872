"""ReviewKD's attention-based fusion of stages (Chen et al. 2021, arXiv 2104.09044, figure 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.distillers.common.layers import BatchNorm
from pipeline.distillers.common.maps import Shape


class Fusion(nn.Module):
    """Attention-based fusion of one student map with what came from the deeper ones.

    conv1 1x1 and BN to `mid` channels; a two-channel sigmoid attention weighs it against the deeper residual; the sum,
    at the teacher's size, goes on as the next residual and, through conv2 3x3 and BN, to the loss.
    """

    def __init__(self, student: Shape, teacher: Shape, mid: int, deepest: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(student[0], mid, 1, bias=False), BatchNorm(mid))
        self.conv2 = nn.Sequential(nn.Conv2d(mid, teacher[0], 3, padding=1, bias=False), BatchNorm(teacher[0]))
        self.attention = None if deepest else nn.Conv2d(2 * mid, 2, 1)
        self.size = teacher[1:]  # at the image size it was built for
        for conv in (*self.conv1.children(), *self.conv2.children()):
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, map_BCHW: Tensor, residual_BCHW: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(for the loss B C_t H_t W_t, next residual B mid H_t W_t). size: (H_t, W_t)."""
        x_BCHW = self.conv1(map_BCHW)
        if self.attention is not None and residual_BCHW is not None:
            deeper_BCHW = nearest(residual_BCHW, map_BCHW.shape[-2:])
            share_B2HW = torch.sigmoid(self.attention(torch.cat([x_BCHW, deeper_BCHW], dim=1)))
            x_BCHW = x_BCHW * share_B2HW[:, :1] + deeper_BCHW * share_B2HW[:, 1:]
        x_BCHW = nearest(x_BCHW, size)
        return self.conv2(x_BCHW), x_BCHW


def nearest(map_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """The map at `size` (height, width), nearest neighbour."""
    return map_BCHW if map_BCHW.shape[-2:] == tuple(size) else F.interpolate(map_BCHW, size=tuple(size))
