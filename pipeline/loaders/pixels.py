"""What is done to pixels: fit and window on the host, normalisation on the device."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def _resized(pixels_HWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Antialiased triangular filter."""
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def fit(pixels_HWC: NDArray[np.uint8], shorter_side: int, size: int) -> NDArray[np.uint8]:
    """Shorter side to `shorter_side`, then the centre of size x size, as torchvision's Resize and CenterCrop do.

    Pixels that are size x size already stay as they are where no larger side is asked for.
    """
    height, width = pixels_HWC.shape[:2]
    shorter = min(height, width)
    if shorter != shorter_side:
        height, width = shorter_side * height // shorter, shorter_side * width // shorter
        pixels_HWC = _resized(pixels_HWC, height, width)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels_HWC[top : top + size, left : left + size]


def cut(pixels_HWC: NDArray[np.uint8], window: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """The window (top, left, height, width), resized to size x size. Nothing outside the window bleeds in."""
    top, left, height, width = window.tolist()
    return _resized(pixels_HWC[top : top + height, left : left + width], size, size)


class Normalise:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] = (pixel / 255 - mean) / std, in channels_last memory or plain.

    The bits of torchvision's ToTensor and Normalize, on every device: divisors are tensors there, because CUDA turns
    the division by a Python number into a product with its inverse. Mean and std are repeated for a whole image,
    which is several times faster on a CPU than broadcasting three numbers.
    """

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        channels_last: bool,
        device: torch.device | str,
    ) -> None:
        self._white = torch.tensor(255.0, device=device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(std, dtype=torch.float32, device=device)
        self._channels_last = channels_last
        self._repeated: dict[int, tuple[Tensor, Tensor]] = {}  # by pixels of an image

    def _tables(self, pixels: int) -> tuple[Tensor, Tensor]:
        if pixels not in self._repeated:
            self._repeated[pixels] = self._mean.repeat(pixels), self._std.repeat(pixels)
        return self._repeated[pixels]

    def __call__(self, pixels_BHWC: Tensor) -> Tensor:
        real = pixels_BHWC.flatten(1).to(torch.float32)
        mean, std = self._tables(pixels_BHWC.shape[1] * pixels_BHWC.shape[2])
        real.div_(self._white).sub_(mean).div_(std)
        image_BCHW = real.view(pixels_BHWC.shape).permute(0, 3, 1, 2)
        return image_BCHW if self._channels_last else image_BCHW.contiguous()
