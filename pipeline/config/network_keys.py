"""Keys of the two networks: teacher.* and student.*."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from pipeline.config.base import Deviations, Means, PathText, Section, Side, Text, key

# Options of constructors that other keys decide; `args` holds the remaining ones.
DECIDED = {
    "num_classes": "the data set says it",
    "pretrained": "checkpoint=auto says it",
    "weights": "checkpoint= says it",
    "checkpoint_path": "checkpoint= says it",
    "model_name": "model= says it",
    "name": "model= says it",
    "aux_logits": "networks here have one classifier",
    "init_weights": "first weights are the published ones",
}


def _undecided(value: dict[str, Any]) -> dict[str, Any]:
    if not _finite(value):
        raise ValueError("holds a number that is not finite")
    for name in [name for name in DECIDED if name in value]:
        raise ValueError(f"{name} is no option here: {DECIDED[name]}")
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _student(value: dict[str, Any]) -> dict[str, Any]:
    if "block" in value:
        raise ValueError("block is no option here: student.block= says it")
    return value


Options = Annotated[dict[str, Any], AfterValidator(_undecided)]


class PruneConfig(Section):
    rate: float = key(
        0.1,
        "share of each layer's weights the pruned copy lacks (teacher.source=pruned)",
        affects="numbers",
        ge=0,
        lt=1,
    )
    weight: float = key(0.7, "of the unpruned teacher's logits in the average", affects="numbers", ge=0, le=1)
    batch_statistics: bool | None = key(
        None, "the pruned copy normalises by the batch; default as the variant's code", affects="numbers"
    )


class TeacherConfig(Section):
    model: Text | None = key(
        None, "teacher network, also timm:NAME or torchvision:NAME; set by pair=", affects="numbers"
    )
    args: Options = key({}, "options of the network, such as stem_feature or double_bn_update", affects="numbers")
    source: Text = key("live", "where its outputs come from", affects="numbers")
    checkpoint: PathText | None = key(
        None, "its weights: FILE, a run folder, auto (published) or none (for benchmarks)", affects="numbers"
    )
    weights: Text | None = key(
        None,
        "set of a file that holds several: its name there, ema or plain; default ema",
        affects="numbers",
        before="plain",
    )
    root: PathText = key(
        "teachers", "folder where auto looks for published weights", affects="place", in_fingerprint=True
    )
    mean: Means | None = key(None, "its own mean where it differs from data.mean", affects="numbers")
    std: Deviations | None = key(None, "its own standard deviation where it differs from data.std", affects="numbers")
    image_size: Side | None = key(None, "pixels it sees where they differ from data.image_size", affects="numbers")
    interpolation: Literal["bilinear", "bicubic"] | None = key(
        None, "how; default that of its weights, or bilinear", affects="numbers"
    )
    fold: Literal["auto", "on", "off"] = key(
        "auto",
        "batch norms as part of the convolutions before them; auto: unless the method reads maps or statistics",
        affects="numbers",
    )
    amp: Literal["same", "off", "bf16", "fp16"] = key(
        "same", "its own autocast; same as runtime.amp", affects="numbers"
    )
    stream: bool = key(False, "on CUDA its forward runs beside the student's, on a stream of its own", affects="speed")
    prune: PruneConfig = PruneConfig()
    cache: PathText | None = key(None, "folder of cached outputs (teacher.source=cached)", affects="place")
    cached_from: Text = key("live", "source whose outputs were cached: live, or pruned", affects="numbers")
    cache_on_device: Literal["auto", "on", "off"] = key(
        "auto", "keep the cached outputs of a view on the device; auto: where they fit", affects="speed"
    )
    verify: Literal["first", "off", "all"] = key(
        "first", "compare cached outputs with the live teacher's: of the first batch, of none, of all", affects="speed"
    )
    allow_lossy: bool = key(False, "use a cache of the largest classes only (cache.dtype=topk)", affects="numbers")


class StudentConfig(Section):
    model: Text | None = key(
        None, "student network, also timm:NAME or torchvision:NAME; `model=` is the same key", affects="numbers"
    )
    args: Annotated[Options, AfterValidator(_student)] = key(
        {}, "options of the network, such as stem_feature or double_bn_update", affects="numbers"
    )
    block: Text | None = key(
        None, "its convolutions: plain, or re-parameterised ambb, acb, dbb, repvgg, convbn", affects="numbers"
    )
    checkpoint: PathText | None = key(
        None, "weights to start from: FILE, a run folder or auto (published)", affects="numbers"
    )
    weights: Text | None = key(
        None,
        "set of a file that holds several: its name there, ema or plain; default ema",
        affects="numbers",
        before="plain",
    )
