"""FFCV's file format: what is in a .beton file, and its samples decoded in compiled code."""

import importlib
from types import ModuleType

import torch

from pipeline.contracts import InputError


def ffcv_module(name: str) -> ModuleType:
    """`ffcv.<name>`. Raises InputError where FFCV is not installed."""
    threads = torch.get_num_threads()
    try:
        return importlib.import_module(f"ffcv.{name}")
    except ImportError as error:
        raise InputError(
            f"FFCV cannot be imported ({error}): `make loaders` installs it, and so does the extra [ffcv] where the "
            "headers of OpenCV and libturbojpeg are installed (docs/loader_ffcv.md)"
        ) from None
    finally:
        torch.set_num_threads(threads)  # importing FFCV sets them to 1
