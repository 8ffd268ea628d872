"""RandomResizedCrop on the host: of each file only what its window needs is decoded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.decode import check_jpeg, decode_upper
from pipeline.datasets.image_set import ImageSet
from pipeline.datasets.pillow import MOST_PIXELS
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.pixels import cut, cut_quickly, cut_scaled

FACTORS = (8, 4, 2)  # of DCT scaling; libjpeg's others (7/8, 3/4 ...) take longer than no scaling

Window = NDArray[np.int64]


class Source(NamedTuple):
    """Image `position` before its window is known: a JPEG's bytes, or (None) pixels_HWC. size: (height, width)."""

    position: int
    size: tuple[int, int]
    data: bytes | None
    pixels_HWC: NDArray[np.uint8] | None


class Windows:
    """Windows by the law of views, mirrored where it says so.

    data.decode=exact: Pillow's pixels (decode all, crop, resize), bit for bit. fast: resized by torch, and decoded at a
    fraction of the size where the window still holds as many pixels as are shown.
    """

    def __init__(self, image_set: ImageSet, config: LoaderConfig) -> None:
        self._set, self._config = image_set, config
        self._fast = config.data.decode == "fast"
        self._most: int = getattr(image_set, "max_pixels", MOST_PIXELS)
        self._read_bytes: Callable[[int], bytes] | None = getattr(image_set, "read_bytes", None)

    def cut(self, view: int, index_B: NDArray[np.int64], pixels_BHWC: NDArray[np.uint8]) -> None:
        """Fills pixels_BHWC [B, S, S, 3]. Raises the InputError of an image that cannot be read."""
        sources = [self._open(index) for index in index_B.tolist()]
        window_B4 = self._draw(view, index_B, [source.size for source in sources])
        flip_B = np.zeros(len(index_B), bool)
        if self._config.mirrors:
            flip_B = np.asarray(views.flips(self._config.data.seed, view, index_B))
        for b, (source, flip) in enumerate(zip(sources, flip_B.tolist(), strict=True)):
            pixels_BHWC[b] = self._shown(source, window_B4[b], view, pixels_BHWC.shape[1], flip)

    def _draw(self, view: int, index_B: NDArray[np.int64], sizes: list[tuple[int, int]]) -> Window:
        config = self._config
        height_B, width_B = np.array(sizes, dtype=np.int64).T
        return views.resized_crop_windows(
            config.data.seed, view, index_B, height_B, width_B, config.data.scale, config.data.ratio
        )

    def _open(self, index: int) -> Source:
        """Files of other formats, and whatever is wrong, are left to the set: it may know a replacement."""
        if self._read_bytes is not None:
            try:
                data = self._read_bytes(index)
                size = check_jpeg(data, self._most)
            except InputError:
                size = None
            if size is not None:
                return Source(index, size, data, None)
        return self._decoded(index)

    def _decoded(self, index: int) -> Source:
        pixels_HWC = self._set.read(index)
        height, width = pixels_HWC.shape[:2]
        return Source(index, (height, width), None, pixels_HWC)

    def _shown(self, source: Source, window: Window, view: int, size: int, flip: bool) -> NDArray[np.uint8]:
        factor, pixels_HWC = 1, source.pixels_HWC
        if source.data is not None:
            factor = self._factor(window, size)
            pixels_HWC = decode_upper(source.data, source.size, int(window[0] + window[2]), factor)
        if pixels_HWC is None:
            there = self._decoded(source.position)
            if there.size != source.size:  # a replacement
                (window,) = self._draw(view, np.array([source.position]), [there.size])
            return self._shown(there, window, view, size, flip)
        if factor > 1:
            return cut_scaled(pixels_HWC, window, size, flip, factor)
        return (cut_quickly if self._fast else cut)(pixels_HWC, window, size, flip)

    def _factor(self, window: Window, size: int) -> int:
        """The strongest reduction that leaves size x size pixels of the window."""
        smaller = int(min(window[2:]))
        return next((factor for factor in FACTORS if self._fast and smaller >= factor * size), 1)
