"""From what DALI decoded to pixels of the batch, in torch's memory."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import views
from pipeline.loaders.augment_ops import operated
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.dali.request import Ask
from pipeline.loaders.pixels import cut, cut_quickly, fit

CHUNK = 8  # images per task of a thread


class Finish:
    """Resizes, cuts and mirrors on the host, in threads that hold no lock meanwhile, then makes views by operations.

    DALI's decoder gives Pillow's pixels on a CPU, of parts of images too: with Pillow's resize they stay so. DALI's own
    takes as long as Pillow's and is 0.2 of 255 off; `quick` takes less than half of it. Whole images are always resized
    by Pillow: evaluation is exact.
    """

    def __init__(self, config: LoaderConfig, operated_kinds: Sequence[str], quick: bool) -> None:
        self._config = config
        self._kinds = operated_kinds
        self._pinned = torch.device(config.device).type == "cuda"
        self._cut = cut_quickly if quick else cut
        self._threads = ThreadPoolExecutor(max(1, config.data.workers))

    def __call__(self, ask: Ask, images: Any) -> Tensor:
        """images: a TensorListCPU of decoded regions. uint8 [B + views by operations, S, S, 3]."""
        rows = len(ask.index_B)
        pixels_BHWC = self._room(rows + ask.own * len(self._kinds), ask.size)
        made = pixels_BHWC.numpy()
        region = [np.asarray(images.at(b)) for b in range(rows)]
        top_B, left_B = np.zeros((2, rows), np.int64)
        if self._config.border:
            top_B, left_B = map(
                np.asarray, views.crop_offsets(self._config.data.seed, ask.view, ask.index_B, self._config.border)
            )

        def work(start: int) -> None:
            stop = min(start + CHUNK, rows)
            for b in range(start, stop):
                made[b] = self._shown(region[b], ask.size, int(top_B[b]), int(left_B[b]), bool(ask.flip_B[b]))
            own = slice(start, min(stop, ask.own))
            for k, kind in enumerate(self._kinds if own.start < own.stop else ()):
                at = rows + k * ask.own
                views_BHWC = operated(made[own], ask.index_B[own], ask.view, kind, self._config)
                made[at + own.start : at + own.stop] = views_BHWC

        list(self._threads.map(work, range(0, rows, CHUNK)))
        return pixels_BHWC

    def _room(self, rows: int, size: int) -> Tensor:
        shape = (rows, size, size, 3)
        if self._pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return torch.from_numpy(np.empty(shape, np.uint8))  # NumPy's memory comes in huge pages

    def _shown(
        self, pixels_HWC: NDArray[np.uint8], size: int, top: int, left: int, mirrored: bool
    ) -> NDArray[np.uint8]:
        config = self._config
        if config.windows:
            whole = np.array([0, 0, *pixels_HWC.shape[:2]])
            return self._cut(pixels_HWC, whole, size, mirrored)
        pixels_HWC, border = fit(pixels_HWC, config.shorter_side, size), config.border
        if border:
            padded = np.pad(pixels_HWC, ((border, border), (border, border), (0, 0)))
            pixels_HWC = padded[top : top + size, left : left + size]
        return pixels_HWC[:, ::-1] if mirrored else pixels_HWC


class Copy:
    """Takes a batch over that DALI finished: its own memory is used again for a later batch.

    On a GPU: the pipeline's outputs are complete when they are handed out (no stream was named), and the copy, on a
    stream of its own, is complete when this returns. So no stream of DALI's has to wait for one of torch's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, ask: Ask, images: Any) -> Tensor:
        """images: a TensorList of one shape, where the device is. uint8 [B, S, S, 3] there."""
        batch = images.as_tensor()
        if self._stream is None:
            return torch.from_numpy(np.array(batch))
        from nvidia.dali.plugin.pytorch import feed_ndarray

        with torch.cuda.stream(self._stream):
            made = torch.empty(tuple(batch.shape()), dtype=torch.uint8, device=self._device)
            feed_ndarray(batch, made, cuda_stream=self._stream)
            self._stream.synchronize()
        return made


def moved(pixels_BHWC: Tensor, device: torch.device) -> Tensor:
    """On the device, for the current stream."""
    if pixels_BHWC.is_cuda:
        pixels_BHWC.record_stream(torch.cuda.current_stream(device))  # made on another one
        return pixels_BHWC
    return pixels_BHWC.to(device, non_blocking=True)
