"""What is done to pixels: fit and window on the host, normalisation on the device."""

import math
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# Numbers that are normalised at a time on a CPU, so that they stay in its cache. With huge pages, 64 images of 224
# pixels take 8.4 ms instead of 23 ms (one core of an EPYC, torch 2.13): most of it was the kernel's, for new pages.
BLOCK = 1 << 19
WHITE = np.float32(255)
Floats = NDArray[np.float32]


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


def cut(
    pixels_HWC: NDArray[np.uint8], window: NDArray[np.int64], size: int, mirrored: bool = False
) -> NDArray[np.uint8]:
    """The window (top, left, height, width), resized to size x size. Nothing outside the window bleeds in."""
    top, left, height, width = window.tolist()
    inside = Image.fromarray(np.ascontiguousarray(pixels_HWC[top : top + height, left : left + width]))
    return _upright(inside.resize((size, size), Image.Resampling.BILINEAR), mirrored)


def cut_scaled(
    pixels_HWC: NDArray[np.uint8], window: NDArray[np.int64], size: int, mirrored: bool, factor: int
) -> NDArray[np.uint8]:
    """The same of pixels decoded at 1 / factor of the image; a little of what lies beside the window bleeds in."""
    top, left, height, width = (window / factor).tolist()
    box = (left, top, left + width, top + height)
    return _upright(Image.fromarray(pixels_HWC).resize((size, size), Image.Resampling.BILINEAR, box), mirrored)


def cut_quickly(
    pixels_HWC: NDArray[np.uint8], window: NDArray[np.int64], size: int, mirrored: bool
) -> NDArray[np.uint8]:
    """The same as `cut` with weights of 16 bits, by torch: some pixels differ by 1, in a third of the time."""
    top, left, height, width = window.tolist()
    inside_HWC = torch.from_numpy(pixels_HWC)[top : top + height, left : left + width]
    image_1CHW = inside_HWC.permute(2, 0, 1)[None]
    small_1CHW = torch.nn.functional.interpolate(image_1CHW, (size, size), mode="bilinear", antialias=True)
    small_HWC = np.empty((size, size, 3), np.uint8)
    # By channel, because the result lies so: 45 us, all at once 180.
    for channel, plane_HW in enumerate(small_1CHW[0].numpy()):
        small_HWC[:, :, channel] = plane_HW[:, ::-1] if mirrored else plane_HW
    return small_HWC


def _upright(small: Image.Image, mirrored: bool) -> NDArray[np.uint8]:
    # Pillow mirrors 224 pixels in 20 us, a reversed copy of NumPy's takes 200.
    return np.asarray(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else small)


class Room:
    """float32 memory for one batch after another: what no tensor shows any longer is written again.

    Of 64 images of 224 pixels new pages take 4 of 9 ms, huge ones as they are.
    """

    def __init__(self) -> None:
        self._lent: list[tuple[Floats, weakref.ref[Any]]] = []

    def take(self, shape: tuple[int, ...]) -> Floats:
        """An array of the shape. torch.from_numpy keeps that very array as long as there is a tensor of its memory."""
        size = math.prod(shape)
        free = [flat for flat, shown in self._lent if shown() is None and len(flat) >= size]
        flat = free[0] if free else np.empty(size, np.float32)
        array = flat[:size].reshape(shape)
        self._lent = [(lent, shown) for lent, shown in self._lent if shown() is not None]
        self._lent.append((flat, weakref.ref(array)))
        return array


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
        self._white = torch.tensor(float(WHITE), device=device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(std, dtype=torch.float32, device=device)
        self._channels_last = channels_last
        self._host = torch.device(device).type == "cpu"
        self._repeated: dict[int, tuple[Tensor, Tensor]] = {}  # by pixels of an image
        self._tables_of_host: dict[int, tuple[Floats, Floats]] = {}

    def _tables(self, pixels: int) -> tuple[Tensor, Tensor]:
        if pixels not in self._repeated:
            self._repeated[pixels] = self._mean.repeat(pixels), self._std.repeat(pixels)
        return self._repeated[pixels]

    def table(self) -> Tensor:
        """float32 [256, 3]: what becomes of each byte in each channel. Looking it up gives the same bits in one kernel,
        however a compiler would divide."""
        byte_Q = torch.arange(256, dtype=torch.uint8, device=self._mean.device)
        return self(byte_Q[:, None, None, None].expand(256, 1, 1, 3).contiguous())[:, :, 0, 0].contiguous()

    def __call__(self, pixels_BHWC: Tensor, room: Room | None = None) -> Tensor:
        """room: for the result, on a CPU; None = memory of its own."""
        byte_BP, pixels = pixels_BHWC.flatten(1), pixels_BHWC.shape[1] * pixels_BHWC.shape[2]
        if self._host:
            real = self._by_one_thread(np.from_dlpack(byte_BP), pixels, room or Room())  # type: ignore[arg-type]
        else:
            mean, std = self._tables(pixels)
            real = torch.div(byte_BP, self._white).sub_(mean).div_(std)
        image_BCHW = real.view(pixels_BHWC.shape).permute(0, 3, 1, 2)
        return image_BCHW if self._channels_last else image_BCHW.contiguous()

    def _by_one_thread(self, byte_BP: NDArray[np.uint8], pixels: int, room: Room) -> Tensor:
        """By NumPy, in blocks: torch would take a thread for each core, and the cores are the decoders'. With two cores
        and two decoding threads ffcv gave 1,561 images/s so, and 1,991 with one thread. See BLOCK for the memory, too:
        NumPy asks the kernel for huge pages, torch does not."""
        if pixels not in self._tables_of_host:
            mean, std = self._tables(pixels)
            self._tables_of_host[pixels] = mean.numpy(), std.numpy()
        mean_P, std_P = self._tables_of_host[pixels]
        real_BP = room.take(byte_BP.shape)
        rows = max(1, BLOCK // byte_BP.shape[1])
        for first in range(0, len(byte_BP), rows):
            block = real_BP[first : first + rows]
            np.copyto(block, byte_BP[first : first + rows])
            np.divide(block, WHITE, out=block)
            np.subtract(block, mean_P, out=block)
            np.divide(block, std_P, out=block)
        return torch.from_numpy(real_BP)
