"""Mixing of images as pure functions of explicit draws, for loaders and methods. Imports torch only.

Images are normalised, so 0 is the mean colour. Boxes are int64 [4], a tensor on the images' device: top, left, height,
width in pixels, inside the image; height or width may be 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def inside(box: Tensor, height: int, width: int) -> Tensor:
    """Bool [H, W]: the pixels of the box. Reads nothing on the host."""
    top, left, tall, wide = box.unbind()
    row_H = torch.arange(height, device=box.device)
    column_W = torch.arange(width, device=box.device)
    in_rows_H = (row_H >= top) & (row_H < top + tall)
    in_columns_W = (column_W >= left) & (column_W < left + wide)
    return in_rows_H[:, None] & in_columns_W


def mixup(image_BCHW: Tensor, partner_BCHW: Tensor, weight: Tensor | float) -> Tensor:
    """weight * own + (1 - weight) * partner's (Zhang et al. 2017, arXiv 1710.09412, eq. 1). weight: 0-d, in 0..1."""
    return weight * image_BCHW + (1 - weight) * partner_BCHW


def cutmix(image_BCHW: Tensor, partner_BCHW: Tensor, box: Tensor) -> Tensor:
    """The partner's pixels inside the box, the own ones outside (Yun et al. 2019, arXiv 1905.04899, eq. 1)."""
    return torch.where(inside(box, *image_BCHW.shape[2:]), partner_BCHW, image_BCHW)


def own_share(box: Tensor, height: int, width: int) -> Tensor:
    """Share of the image outside the box, a 0-d float64: cutmix's weight of the own label. [S] for boxes [4, S]."""
    return 1 - (box[2] * box[3]).double() / (height * width)


def cutout(image_BCHW: Tensor, box: Tensor) -> Tensor:
    """Zeros inside the box (DeVries and Taylor 2017, arXiv 1708.04552)."""
    # Not masked_fill: it would turn channels_last memory into plain memory.
    return torch.where(inside(box, *image_BCHW.shape[2:]), 0.0, image_BCHW)


def entropy(logits_BK: Tensor) -> Tensor:
    """Of softmax(logits), in nats, [B]; finite for any finite logits."""
    log_p_BK = F.log_softmax(logits_BK, dim=1)
    return -(log_p_BK.exp() * log_p_BK).sum(dim=1)


def most_uncertain(entropy_B: Tensor, count: int) -> Tensor:
    """Rows of the `count` largest entropies (all rows if there are fewer), int64, the largest last.

    The selection of CutMixPick (Wang et al. 2022, "What makes a good data augmentation in knowledge distillation",
    arXiv 2012.02909), as R2KD's code has it.
    """
    return entropy_B.argsort()[-count:]
