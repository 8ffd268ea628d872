"""A loader's configuration from keys alone: images as they are, unless a key says otherwise."""

from typing import Any

from pipeline.config import DataConfig
from pipeline.loaders.config import LoaderConfig

PLAIN = {"crop": "none", "padding": 0, "flip": False, "workers": 0, "read_timeout": 0.0}


def loader_config(*, batch_size: int, data_seed: int = 0, **keys: Any) -> LoaderConfig:
    """keys: of LoaderConfig and of data.*; data_seed is data.seed; evaluation has the same batches."""
    own = {name: value for name, value in keys.items() if name in LoaderConfig.__dataclass_fields__}
    of_data = {name: value for name, value in keys.items() if name not in own}
    sizes = {"batch_size": batch_size, "eval_batch_size": batch_size, "seed": data_seed}
    return LoaderConfig(data=DataConfig(**{**PLAIN, **sizes, **of_data}), **own)
