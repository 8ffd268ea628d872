"""A teacher with other preprocessing than the student gets its own, on the device, from the same view."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Preprocess(nn.Module):
    """Images normalised for one network to images normalised and sized for another.

    mean, std: per channel, pixels in 0..1; `own_*` those of the other network; image_size: pixels it sees, None = as
    they come; interpolation: bilinear or bicubic, antialiased. (x std + mean - own_mean) / own_std is a multiplication
    and an addition, computed in float64 once; resizing comes first, on which the order has no influence but rounding.
    """

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        own_mean: Sequence[float],
        own_std: Sequence[float],
        image_size: int | None,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        mean_C, std_C, own_mean_C, own_std_C = (
            torch.tensor(values, dtype=torch.float64) for values in (mean, std, own_mean, own_std)
        )
        self.register_buffer("scale_C11", (std_C / own_std_C).float()[:, None, None], persistent=False)
        self.register_buffer("shift_C11", ((mean_C - own_mean_C) / own_std_C).float()[:, None, None], persistent=False)
        self.image_size = image_size
        self.interpolation = interpolation
        self.renormalises = tuple(mean) != tuple(own_mean) or tuple(std) != tuple(own_std)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Returns its very input where nothing differs."""
        size = self.image_size
        if size is not None and image_BCHW.shape[2:] != (size, size):
            image_BCHW = F.interpolate(
                image_BCHW, (size, size), mode=self.interpolation, align_corners=False, antialias=True
            )
        return image_BCHW * self.scale_C11 + self.shift_C11 if self.renormalises else image_BCHW
