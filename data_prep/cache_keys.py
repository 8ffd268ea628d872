"""Keys of data_prep/cache_teacher.py."""

from typing import Literal

from pipeline.builders.names import config_of
from pipeline.config import TrainConfig
from pipeline.config.base import NEVER, PathText, Section, key


class CacheKeys(Section):
    out: PathText = key(..., "folder to write to", affects="place")
    views: int | None = key(
        None,
        "views to store, from the first; default optim.epochs: a new one each epoch",
        affects="numbers",
        ge=1,
        le=1_000_000,
    )
    dtype: Literal["fp32", "fp16", "int8", "topk"] = key(
        "fp32", "of the logits; topk: the largest only (lossy)", affects="numbers"
    )
    k: int = key(0, "classes that are kept (cache.dtype=topk)", affects="numbers", ge=0, le=NEVER)
    pooled: bool = key(
        False, "store the input of the teacher's classifier as well (crd, pkt, rkd, cc, srrl)", affects="numbers"
    )


class CacheTeacherConfig(TrainConfig):
    """Keys of data_prep/cache_teacher.py: those of pipeline/train.py and these."""

    cache: CacheKeys


def read_config(argv: list[str]) -> CacheTeacherConfig:
    """The configuration of a command line; the method is kd unless it says otherwise."""
    said = any(word.startswith(("method=", "config=")) for word in argv)
    words = argv if said else ["method=kd", *argv]
    return config_of(CacheTeacherConfig, words)
