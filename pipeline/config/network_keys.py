"""Keys of the two networks: teacher.* and student.*."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from pipeline.config.base import Rgb, Section, Text, key, off, on_off


class PruneConfig(Section):
    rate: float = key(0.1, "share of each layer's weights the pruned copy lacks (teacher.source=pruned)", ge=0, lt=1)
    weight: float = key(0.7, "of the unpruned teacher's logits in the average", ge=0, le=1)
    batch_statistics: bool | None = key(None, "the pruned copy normalises by the batch; default as the variant's code")


class TeacherConfig(Section):
    model: Text | None = key(None, "teacher network, also timm:NAME or torchvision:NAME; set by pair=")
    args: dict[str, Any] = key({}, "options of the network, such as stem_feature or double_bn_update")
    source: Text = key("live", "where its outputs come from")
    checkpoint: Text | None = key(None, "its weights: FILE, a run folder, auto (published) or none (for benchmarks)")
    root: Text = key("teachers", "folder where auto looks for published weights")
    mean: Rgb | None = key(None, "its own mean where it differs from data.mean")
    std: Rgb | None = key(None, "its own standard deviation where it differs from data.std")
    image_size: int | None = key(None, "pixels it sees where they differ from data.image_size", ge=1)
    interpolation: Literal["bilinear", "bicubic"] | None = key(None, "how; default that of its weights, or bilinear")
    fold: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_off)] = key(
        "auto", "batch norms as part of the convolutions before them; auto: unless the method reads maps or statistics"
    )
    amp: Annotated[Literal["same", "off", "bf16", "fp16"], BeforeValidator(off)] = key(
        "same", "its own autocast; same as runtime.amp"
    )
    stream: bool = key(False, "on CUDA its forward runs beside the student's, on a stream of its own")
    prune: PruneConfig = PruneConfig()
    cache: Text | None = key(None, "folder of cached outputs (teacher.source=cached)")
    cached_from: Text = key("live", "source whose outputs were cached: live, or pruned")
    cache_on_device: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_off)] = key(
        "auto", "keep the cached outputs of a view on the device; auto: where they fit"
    )
    verify: Annotated[Literal["first", "off", "all"], BeforeValidator(off)] = key(
        "first", "compare cached outputs with the live teacher's: of the first batch, of none, of all"
    )
    allow_lossy: bool = key(False, "use a cache of the largest classes only (cache.dtype=topk)")


class StudentConfig(Section):
    model: Text | None = key(None, "student network, also timm:NAME or torchvision:NAME; `model=` is the same key")
    args: dict[str, Any] = key({}, "options of the network, such as stem_feature or double_bn_update")
    block: Text | None = key(None, "its convolutions: plain, or re-parameterised ambb, acb, dbb, repvgg, convbn")
    checkpoint: Text | None = key(None, "weights to start from: FILE, a run folder or auto (published)")
