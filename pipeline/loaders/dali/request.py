"""What DALI is asked for: the bytes of a batch's files in our order, and of each image the part to decode."""

import io
import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import views
from pipeline.datasets.decode import jpeg_size
from pipeline.datasets.image_set import FileSet
from pipeline.loaders.base import Reads
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.extra_views import Read

Bytes = NDArray[np.uint8]


class Ask(NamedTuple):
    """A batch to decode. own: its first rows, which get the views by operations; size: side of its images in pixels.

    region_B4: (top, left, height, width) of the part of each stored image that is decoded. flip_B: mirrored or not.
    """

    view: int
    size: int
    own: int
    index_B: NDArray[np.int64]
    data: Sequence[Bytes]
    region_B4: NDArray[np.int64]
    flip_B: NDArray[np.bool_]

    def row(self, b: int) -> "Ask":
        """The batch of one image."""
        one = slice(b, b + 1)
        return self._replace(
            index_B=self.index_B[one], data=self.data[one], region_B4=self.region_B4[one], flip_B=self.flip_B[one]
        )


def ask_for(
    image_set: FileSet, config: LoaderConfig, todo: Reads, read: Read, undecodable: Collection[int] = ()
) -> Ask:
    """Reads the files. Images in `undecodable` are decoded by the set. Raises InputError where one cannot be read."""
    index_B = todo.index_M[read.start : read.stop]
    found = [_encoded(image_set, i, i in undecodable) for i in index_B.tolist()]
    size_B2 = np.array([size for _, size in found], dtype=np.int64)
    flip_B = np.zeros(len(index_B), bool)
    if config.mirrors:
        flip_B = np.asarray(views.flips(config.data.seed, todo.view, index_B))
    if config.windows:
        height_B, width_B = size_B2.T
        region_B4 = views.resized_crop_windows(
            config.data.seed, todo.view, index_B, height_B, width_B, config.data.scale, config.data.ratio
        )
    else:
        region_B4 = np.concatenate([np.zeros_like(size_B2), size_B2], axis=1)
    return Ask(todo.view, todo.size, read.own, index_B, [data for data, _ in found], region_B4, flip_B)


def _encoded(image_set: FileSet, index: int, undecodable: bool) -> tuple[Bytes, tuple[int, int]]:
    """A file that any decoder reads alike, and the image's (height, width)."""
    if not undecodable:
        data = image_set.encoded(index)
        size = _size(data)
        if size is not None:
            return np.frombuffer(data, np.uint8), size
    pixels_HWC = image_set.read(index)
    height, width = pixels_HWC.shape[:2]
    data = b"P6\n%d %d\n255\n" % (width, height) + pixels_HWC.tobytes()
    return np.frombuffer(data, np.uint8), (height, width)


def _size(data: bytes) -> tuple[int, int] | None:
    size = jpeg_size(data)
    if size is not None:
        return size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return image.height, image.width
    except Exception:  # Pillow's readers raise nearly anything on damaged files: the set says what is wrong
        return None


def fitted(config: LoaderConfig, ask: Ask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(size_B2, corner_B2): (height, width) to resize whole images to, and where the centre of ask.size begins.

    The numbers of pixels.fit, for those who resize elsewhere.
    """
    size_B2 = ask.region_B4[:, 2:]
    size_B2 = config.shorter_side * size_B2 // size_B2.min(axis=1, keepdims=True)
    return size_B2, np.rint((size_B2 - ask.size) / 2).astype(np.int64)
