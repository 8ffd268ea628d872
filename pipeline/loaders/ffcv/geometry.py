"""Where each image of a batch comes from and goes to, one row of integers per image, by the law of views."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline import views
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.ffcv.file import RAW, Beton


class Column(IntEnum):
    """Columns of a row. The compiled code knows their numbers.

    The region (TOP, LEFT, TALL, WIDE) of the stored image is resized to FRAME_TALL x FRAME_WIDE. The image that is
    shown lies in this frame from (DOWN, RIGHT) on, moved by (MOVE_DOWN, MOVE_RIGHT) over zeros, mirrored if MIRROR.
    """

    POINTER = 0
    SIZE = 1
    RAW = 2
    HEIGHT = 3
    WIDTH = 4
    TOP = 5
    LEFT = 6
    TALL = 7
    WIDE = 8
    FRAME_TALL = 9
    FRAME_WIDE = 10
    DOWN = 11
    RIGHT = 12
    MOVE_DOWN = 13
    MOVE_RIGHT = 14
    MIRROR = 15


def geometry(beton: Beton, config: LoaderConfig, view: int, index_B: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Rows int64 [B, 16] for the samples index_B. size: pixels of a side of what is shown."""
    row = np.zeros((len(index_B), len(Column)), dtype=np.int64)
    row[:, Column.POINTER] = beton.pointer_N[index_B]
    row[:, Column.SIZE] = beton.size_N[index_B]
    row[:, Column.RAW] = beton.mode_N[index_B] == RAW
    row[:, Column.HEIGHT] = beton.height_N[index_B]
    row[:, Column.WIDTH] = beton.width_N[index_B]
    source = beton.source_height_N[index_B], beton.source_width_N[index_B]
    if config.windows:
        _windows(row, config, view, index_B, *source)
        row[:, Column.FRAME_TALL] = row[:, Column.FRAME_WIDE] = size
    else:
        _fit(row, config.shorter_side, size, *source)
    if config.border:
        top_B, left_B = views.crop_offsets(config.data.seed, view, index_B, config.border)
        row[:, Column.MOVE_DOWN], row[:, Column.MOVE_RIGHT] = top_B - config.border, left_B - config.border
    if config.mirrors:
        row[:, Column.MIRROR] = np.asarray(views.flips(config.data.seed, view, index_B))
    return row


def _windows(
    row: NDArray[np.int64],
    config: LoaderConfig,
    view: int,
    index_B: NDArray[np.int64],
    height_B: NDArray[np.int64],
    width_B: NDArray[np.int64],
) -> None:
    """Windows of the source images, scaled to the stored ones: the same part whatever the file's max_resolution."""
    window_B4 = views.resized_crop_windows(
        config.data.seed, view, index_B, height_B, width_B, config.data.scale, config.data.ratio
    )
    top_B, left_B, tall_B, wide_B = window_B4.T
    row[:, Column.TOP], row[:, Column.TALL] = _scaled(top_B, tall_B, height_B, row[:, Column.HEIGHT])
    row[:, Column.LEFT], row[:, Column.WIDE] = _scaled(left_B, wide_B, width_B, row[:, Column.WIDTH])


def _scaled(
    first_B: NDArray[np.int64], length_B: NDArray[np.int64], source_B: NDArray[np.int64], stored_B: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first, length) of first..first+length of `source` pixels among `stored` ones: ends rounded, never empty."""
    start_B = np.minimum(np.rint(first_B * stored_B / source_B).astype(np.int64), stored_B - 1)
    stop_B = np.rint((first_B + length_B) * stored_B / source_B).astype(np.int64)
    return start_B, np.maximum(stop_B - start_B, 1)


def _fit(
    row: NDArray[np.int64], shorter_side: int, size: int, height_B: NDArray[np.int64], width_B: NDArray[np.int64]
) -> None:
    """pixels.fit: the whole image at the size that its source would be resized to, of which the centre is shown."""
    shorter_B = np.minimum(height_B, width_B)
    row[:, Column.TALL], row[:, Column.WIDE] = row[:, Column.HEIGHT], row[:, Column.WIDTH]
    row[:, Column.FRAME_TALL] = tall_B = shorter_side * height_B // shorter_B
    row[:, Column.FRAME_WIDE] = wide_B = shorter_side * width_B // shorter_B
    row[:, Column.DOWN] = np.rint((tall_B - size) / 2).astype(np.int64)
    row[:, Column.RIGHT] = np.rint((wide_B - size) / 2).astype(np.int64)
