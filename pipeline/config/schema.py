"""Every public key, its type, its range, its default and its unit. Descriptions are what `--help` prints."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# `run.name=7` is a name, and YAML reads `off` as false.
Text = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) and v is not True else v)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _off(value: Any) -> Any:
    return "off" if value is False else value


def _on_off(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Networks = Literal["cifar", "tiny", "imagenet"]
NETWORKS = (
    "whose network a shared name means: cifar (3x3 stem), tiny (mdistiller's), imagenet; a prefix says it for one"
)
Rgb = tuple[float, float, float]
Span = tuple[float, float]


def key(default: Any, text: str, **limits: Any) -> Any:
    """A field with its default and its help text."""
    return Field(default, description=text, **limits)


class Section(BaseModel):
    """Frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    prune: PruneConfig = PruneConfig()
    cache: Text | None = key(None, "folder of cached outputs (teacher.source=cached)")
    cached_from: Text = key("live", "source whose outputs were cached: live, or pruned")
    cache_on_device: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_off)] = key(
        "auto", "keep the cached outputs of a view on the device; auto: where they fit"
    )
    verify: Annotated[Literal["first", "off", "all"], BeforeValidator(_off)] = key(
        "first", "compare cached outputs with the live teacher's: of the first batch, of none, of all"
    )
    allow_lossy: bool = key(False, "use a cache of the largest classes only (cache.dtype=topk)")


class StudentConfig(Section):
    model: Text | None = key(None, "student network, also timm:NAME or torchvision:NAME; `model=` is the same key")
    args: dict[str, Any] = key({}, "options of the network, such as stem_feature or double_bn_update")
    block: Text | None = key(None, "its convolutions: plain, or re-parameterised ambb, acb, dbb, repvgg, convbn")
    checkpoint: Text | None = key(None, "weights to start from: FILE, a run folder or auto (published)")


class DaliConfig(Section):
    decoder: Literal["auto", "cpu", "mixed"] = key("auto", "where JPEGs are decoded; mixed = on the GPU")
    hw_decoder_load: float = key(0.65, "share of the images for the GPU's JPEG engine (decoder=mixed)", ge=0, le=1)
    prefetch: int = key(2, "batches made ahead", ge=1)
    resize: Literal["quick", "pillow", "dali"] = key("quick", "after decoding on a CPU: bytes, Pillow's bits, or DALI")


class FfcvConfig(Section):
    train: Text | None = key(None, ".beton file of the training set (data_prep/write_beton.py)")
    test: Text | None = key(None, ".beton file of the test set")
    cache: Literal["os", "memory"] = key("os", "os: the page cache keeps what fits; memory: the whole file is read")
    batches_ahead: int = key(3, "batches made ahead", ge=1)


class DataConfig(Section):
    root: Text | None = key(None, "folder of the data set")
    download: bool = key(False, "fetch the data set into data.root when it is not there")
    loader: Text = key("resident", "resident (set in memory), torch (worker processes), dali or ffcv")
    order: Literal["random", "quasi_random", "sequential"] = key("random", "of the training samples in an epoch")
    decode: Literal["exact", "fast"] = key("exact", "Pillow's pixels, or approximations that decode faster")
    on_bad: Literal["error", "replace"] = key("error", "image that cannot be read: stop, or take the next of its class")
    index: Literal["auto", "off", "rebuild"] = key("auto", "file that saves the walk through a large set's folders")
    batch_size: int = key(64, "images per optimiser step over all ranks", ge=1)
    eval_batch_size: int = key(256, "images per evaluation step and rank", ge=1)
    workers: int = key(2, "worker processes per rank (loader torch)", ge=0)
    seed: Seed = key(0, "keys crops, flips and mixes; shared by runs that share a cache")
    mean: Rgb = key((0.5, 0.5, 0.5), "subtracted per channel, pixels in 0..1")
    std: Rgb = key((0.25, 0.25, 0.25), "divided by per channel, pixels in 0..1")
    image_size: int = key(32, "pixels, height and width of what the network sees", ge=1)
    min_image_size: int | None = key(None, "pixels that training starts with; they grow to image_size", ge=1)
    grow_epochs: tuple[int, int] = key((0, 0), "last epoch (from 1) at min_image_size, first at image_size")
    eval_image_size: int | None = key(None, "pixels in evaluation; default image_size", ge=1)
    eval_flip: bool = key(False, "evaluate the mean of the logits of an image and of its mirror image")
    crop: Literal["pad", "window", "none"] = key("pad", "pad and crop, RandomResizedCrop window, or none")
    padding: int = key(4, "pixels of zeros around the image (crop=pad)", ge=0)
    scale: Span = key((0.08, 1.0), "area range of the window, share of the image (crop=window)")
    ratio: Span = key((0.75, 4 / 3), "aspect range of the window, width / height (crop=window)")
    flip: bool = key(True, "mirror half of the images")
    rotation: float = key(0.0, "random rotation in +- degrees, 0 = off", ge=0, le=180)
    resize: int | None = key(None, "pixels of the shorter side before the centre crop in evaluation")
    dali: DaliConfig = DaliConfig()
    ffcv: FfcvConfig = FfcvConfig()
    val_split: int = key(0, "training images held out for select_on=val", ge=0)

    @model_validator(mode="after")
    def _ranges(self) -> "DataConfig":
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("scale must be a range inside 0..1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio must be an ascending range of positive numbers")
        return self

    @model_validator(mode="after")
    def _growth(self) -> "DataConfig":
        first, (last_small, first_large) = self.min_image_size, self.grow_epochs
        if first is None:
            return self
        if first > self.image_size:
            raise ValueError(f"min_image_size={first} is above image_size={self.image_size}")
        if self.crop != "window":
            raise ValueError(f"min_image_size needs crop=window: with crop={self.crop} images have one size")
        if not 1 <= last_small < first_large:
            raise ValueError(
                f"min_image_size needs grow_epochs=[A,B] with 1 <= A < B, not {list(self.grow_epochs)}: the last epoch "
                "at min_image_size and the first at image_size"
            )
        return self

    @property
    def test_size(self) -> int:
        """Pixels of a side in evaluation."""
        return self.eval_image_size or self.image_size

    @property
    def smallest_size(self) -> int:
        """Pixels of a side of the first training images."""
        return self.min_image_size or self.image_size

    @property
    def ramp(self) -> tuple[int, int, int] | None:
        """(first size, last epoch that has it, first epoch that has image_size), epochs from 0; None: one size."""
        last_small, first_large = self.grow_epochs
        return None if self.min_image_size is None else (self.min_image_size, last_small - 1, first_large - 1)


class OptimConfig(Section):
    name: Text = key("sgd", "sgd, adamw (fused), dot, or apex_lamb, apex_novograd, apex_larc where apex is installed")
    lr: float = key(0.05, "learning rate of the global batch; never scaled behind your back", gt=0)
    momentum: float = key(0.9, "of SGD", ge=0, lt=1)
    dot_delta: float = key(
        0.075, "of DOT: task momentum - delta, distillation momentum + delta (.09 on ImageNet)", ge=0
    )
    nesterov: bool = key(False, "Nesterov momentum")
    betas: Span = key((0.9, 0.999), "of AdamW and LAMB")
    eps: float = key(1e-8, "of AdamW and LAMB", gt=0)
    weight_decay: float = key(5e-4, "L2 (SGD) or decoupled (AdamW)", ge=0)
    decay_norm_bias: bool = key(True, "false: no weight decay on normalisation layers and biases")
    epochs: int = key(240, "passes over the training set", ge=1)
    schedule: Literal["multistep", "cosine", "linear", "constant"] = key("multistep", "learning rate over the epochs")
    milestones: tuple[int, ...] = key((150, 180, 210), "last epoch, from 1, before each drop (multistep)")
    gamma: float = key(0.1, "factor of each drop (multistep)", gt=0)
    min_lr: float = key(0.0, "where cosine and linear end", ge=0)
    warmup_epochs: float = key(0.0, "epochs of linear rise to lr", ge=0)
    warmup_start: float | None = key(None, "rate of step 0, share of lr; default 1 / steps of the rise", ge=0, le=1)
    label_smoothing: float = key(0.0, "share of the label spread over all classes, in every method's ce", ge=0, lt=1)
    ema_decay: float = key(0.0, "of the averaged weights that are evaluated and exported, 0 = off", ge=0, lt=1)
    accumulate: int = key(1, "slices that each rank's batch is computed in (memory), one update each batch", ge=1)
    clip_norm: float = key(0.0, "largest L2 norm of the gradient, 0 = off", ge=0)

    @model_validator(mode="after")
    def _combinations(self) -> "OptimConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs momentum")
        if self.min_lr > self.lr:
            raise ValueError("min_lr is above lr")
        return self


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = key("auto", "auto = cuda where there is one")
    amp: Annotated[Literal["off", "bf16", "fp16"], BeforeValidator(_off)] = key("off", "autocast; losses stay float32")
    compile: Annotated[Literal["off", "default", "max"], BeforeValidator(_off)] = key("off", "torch.compile")
    channels_last: bool = key(True, "NHWC memory layout")
    deterministic: bool = key(False, "deterministic algorithms only")
    gather: bool = key(True, "methods relate the samples of the global batch; false: of each rank's, as official code")
    sync_bn: bool = key(False, "batch-norm statistics over all ranks (else per rank)")
    bucket_mb: float = key(25.0, "MiB per DDP bucket", gt=0)
    threads: int = key(0, "CPU threads per rank, 0 = as the environment says", ge=0)


class OutputConfig(Section):
    dir: Text = key("runs", "folder of all runs")
    name: Text | None = key(None, "folder of this run; default <dataset>/<method>/<pair>/seed<k>")
    resume: Literal["auto", "never"] = key("auto", "auto = go on where the folder's last checkpoint is")
    limit_steps: int | None = key(None, "optimiser steps of the whole run; the cut epoch is still evaluated", ge=1)
    log_every: int = key(50, "steps between reads of the meters", ge=1)
    eval_every: int = key(1, "epochs between evaluations; the last epoch is always evaluated", ge=1)
    keep_every: int = key(0, "epochs between checkpoints that are kept for good, 0 = none", ge=0)
    checkpoint_steps: int = key(0, "steps between checkpoints inside an epoch, 0 = at epoch ends only", ge=0)


class LogConfig(Section):
    tensorboard: bool = key(True, "write TensorBoard events")
    wandb: bool = key(False, "log to Weights & Biases (extra [wandb])")
    wandb_project: Text = key("stillhouse", "its project")
    wandb_offline: bool = key(False, "write its files only, send nothing")


class EvaluateConfig(Section):
    """Keys of pipeline/evaluate.py."""

    dataset: Text = key(..., "data set")
    recipe: Text = key("default", "source whose preprocessing is used")
    networks: Networks = key("cifar", NETWORKS)
    student: StudentConfig = StudentConfig()
    part: Literal["student", "teacher"] = key("student", "network to take out of a full distiller checkpoint")
    root: Text = key("teachers", "folder where checkpoint=auto looks for published weights")
    data: DataConfig = DataConfig()
    runtime: RuntimeConfig = RuntimeConfig()


class ExportConfig(Section):
    """Keys of pipeline/export.py."""

    to: Literal["safetensors", "onnx", "torchscript", "state_dict", "summary"] = key("safetensors", "what to write")
    out: Text | None = key(None, "file to write, its card beside it as FILE.md; default MODEL.SUFFIX here")
    deploy: bool = key(True, "fold re-parameterised blocks into single convolutions")
    student: StudentConfig = StudentConfig()
    part: Literal["student", "teacher"] = key("student", "network to take out of a full distiller checkpoint")
    dataset: Text | None = key(None, "data set, for image size, mean and std; a run folder says it itself")
    recipe: Text = key("default", "source whose preprocessing is named in the card")
    networks: Networks = key("cifar", NETWORKS)
    num_classes: int | None = key(None, "classes; default those of the checkpoint", ge=1)
    root: Text = key("teachers", "folder where checkpoint=auto looks for published weights")
    licence: Text | None = key(None, "licence of the weights, for the card")
    data: DataConfig = DataConfig()


class TrainConfig(Section):
    """Keys of pipeline/train.py."""

    dataset: Text = key(..., "data set")
    pair: Text | None = key(None, "TEACHER-STUDENT out of configs/pairs.yaml")
    method: Text = key("vanilla", "distillation method; vanilla = plain training")
    variant: Text = key("default", "origin of the method's formula; help lists them")
    recipe: Text = key("default", "source of the training recipe; default = that of the method's paper")
    method_args: dict[str, Any] = key({}, "hyper-parameters of the method")
    networks: Networks = key("cifar", NETWORKS)
    seed: Seed = key(0, "keys the initial weights and the order of samples")
    seeds: int = key(1, "runs seed, seed + 1, ... and prints mean +- std", ge=1)
    select_on: Literal["test", "val"] = key("test", "what `best` is chosen by: test as the field does, or val")
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    run: OutputConfig = OutputConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _combinations(self) -> "TrainConfig":
        if self.select_on == "val" and self.data.val_split == 0:
            raise ValueError("select_on=val needs data.val_split=N, the number of training images to hold out")
        return self

    def fingerprint(self) -> str:
        """Hash of every key that says what is trained; where it runs, how it is logged and kept is left out."""
        return hashlib.sha256(json.dumps(self.numbers(), sort_keys=True).encode()).hexdigest()

    def numbers(self) -> dict[str, Any]:
        """The keys behind `fingerprint`, nested."""
        what = self.model_dump(mode="json", exclude={"run", "log", "runtime", "seeds"})
        for name in ("root", "download", "loader", "workers", "eval_batch_size", "index", "dali", "ffcv"):
            what["data"].pop(name)
        what["optim"].pop("accumulate")
        for name in ("cache", "cache_on_device", "verify"):
            what["teacher"].pop(name)
        what["pair"] = None
        return what
