"""The law of views: all randomness of the data path, a pure function of (seed, view, sample).

Integers and uniforms are the same bits in NumPy, torch and numba; whatever needs exp, log or a cosine is computed in
NumPy float64 on the host. Epochs, views and steps count from 0.
"""

from pipeline.views.counter import Stream, integer, philox, uniform, words
from pipeline.views.mixing import cutout_boxes, mix_boxes, mix_lambdas
from pipeline.views.operations import OP_KINDS, Operation, op_magnitudes, ops, patches
from pipeline.views.rotation import rotation_angles, rotation_matrices, rotation_sources
from pipeline.views.sampling import ORDERS, epoch_order, order, partners, rank_slice, steps_per_epoch, view_of
from pipeline.views.windows import crop_offsets, flips, resized_crop_windows

VERSION = 1  # recorded by caches: raise it when any draw changes

__all__ = [
    "OP_KINDS",
    "ORDERS",
    "VERSION",
    "Operation",
    "Stream",
    "crop_offsets",
    "cutout_boxes",
    "epoch_order",
    "flips",
    "integer",
    "mix_boxes",
    "mix_lambdas",
    "op_magnitudes",
    "ops",
    "order",
    "partners",
    "patches",
    "philox",
    "rank_slice",
    "resized_crop_windows",
    "rotation_angles",
    "rotation_matrices",
    "rotation_sources",
    "steps_per_epoch",
    "uniform",
    "view_of",
    "words",
]
