"""Sets written as .beton files, once for all tests of a module."""

import functools
import tempfile
from pathlib import Path

from small_sets import array_set, file_set

from pipeline.loaders import LOADERS
from pipeline.loaders.ffcv.writer import write_beton

RAW = {"max_resolution": None, "raw_fraction": 1.0}


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory()  # removed when the process ends


@functools.cache
def written(make, n, max_resolution=None, quality=90, raw_fraction=0.0):
    """(set, its .beton file); make: array_set or file_set."""
    image_set = make(n)
    path = Path(_folder().name) / f"{make.__name__}-{n}-{max_resolution}-{quality}-{raw_fraction}.beton"
    write_beton(image_set, path, max_resolution=max_resolution, quality=quality, raw_fraction=raw_fraction, workers=1)
    return image_set, path


def raw_arrays(n=70):
    """Images of 16 x 16 pixels, as they are."""
    return written(array_set, n, **RAW)


def raw_files(n=23):
    """Images of many sizes, as they are."""
    return written(file_set, n, **RAW)


def beton_loader(image_set, path, how, **options):
    """The ffcv loader of a training set."""
    return LOADERS.get("ffcv")(image_set, how, train=str(path), **options)
