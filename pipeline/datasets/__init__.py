"""What the samples are: labels, pixels or files, sizes. One data set (or family) per file."""

from collections.abc import Callable

from pipeline.datasets.image_set import ArraySet, FileSet, ImageSet
from pipeline.registry import Registry

DATASETS: Registry[Callable[..., ImageSet]] = Registry("dataset", __name__)

__all__ = ["DATASETS", "ArraySet", "FileSet", "ImageSet"]
