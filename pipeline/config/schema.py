"""Every public key, its type, its range, its default and its unit. Descriptions are what `--help` prints."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.affects import dumped, in_fingerprint, without_later
from pipeline.config.base import NEVER, AtOnce, PathText, RunName, Section, Seed, Text, key
from pipeline.config.data_keys import DataConfig
from pipeline.config.network_keys import StudentConfig, TeacherConfig

Networks = Literal["cifar", "tiny", "imagenet"]
NETWORKS = (
    "whose network a shared name means: cifar (3x3 stem), tiny (mdistiller's), imagenet; a prefix says it for one"
)

MOST_EPOCHS = 1_000_000
MOST_CLASSES = 10_000_000
Beta = Annotated[float, Field(ge=0, lt=1)]
Milestone = Annotated[int, Field(ge=0, le=MOST_EPOCHS)]


class OptimConfig(Section):
    name: Text = key(
        "sgd",
        "sgd, adamw (fused), dot, or apex_lamb, apex_novograd, apex_larc where apex is installed",
        affects="numbers",
    )
    lr: float = key(
        0.05, "learning rate of the global batch; never scaled behind your back", affects="numbers", gt=0, le=1e30
    )
    momentum: float = key(0.9, "of SGD", affects="numbers", ge=0, lt=1)
    dot_delta: float = key(
        0.075,
        "of DOT: task momentum - delta, distillation momentum + delta (.09 on ImageNet)",
        affects="numbers",
        ge=0,
        le=1,
    )
    nesterov: bool = key(False, "Nesterov momentum", affects="numbers")
    betas: tuple[Beta, Beta] = key((0.9, 0.999), "of AdamW and LAMB", affects="numbers")
    eps: float = key(1e-8, "of AdamW and LAMB", affects="numbers", gt=0, le=1)
    weight_decay: float = key(5e-4, "L2 (SGD) or decoupled (AdamW)", affects="numbers", ge=0, le=1e6)
    decay_norm_bias: bool = key(True, "false: no weight decay on normalisation layers and biases", affects="numbers")
    epochs: int = key(240, "passes over the training set", affects="numbers", ge=1, le=MOST_EPOCHS)
    schedule: Literal["multistep", "cosine", "linear", "constant"] = key(
        "multistep", "learning rate over the epochs", affects="numbers"
    )
    milestones: tuple[Milestone, ...] = key(
        (150, 180, 210), "last epoch, from 1, before each drop (multistep)", affects="numbers"
    )
    gamma: float = key(0.1, "factor of each drop (multistep)", affects="numbers", gt=0, le=1e6)
    min_lr: float = key(0.0, "where cosine and linear end", affects="numbers", ge=0, le=1e6)
    warmup_epochs: float = key(0.0, "epochs of linear rise to lr", affects="numbers", ge=0, le=MOST_EPOCHS)
    warmup_start: float | None = key(
        None, "rate of step 0, share of lr; default 1 / steps of the rise", affects="numbers", ge=0, le=1
    )
    label_smoothing: float = key(
        0.0, "share of the label spread over all classes, in every method's ce", affects="numbers", ge=0, lt=1
    )
    ema_decay: float = key(
        0.0, "of the averaged weights that are evaluated and exported, 0 = off", affects="numbers", ge=0, lt=1
    )
    accumulate: int = key(
        1,
        "slices that each rank's batch is computed in (memory), one update each batch",
        affects="numbers",
        in_fingerprint=False,
        ge=1,
        le=2**20,
    )
    clip_norm: float = key(0.0, "largest L2 norm of the gradient, 0 = off", affects="numbers", ge=0, le=1e9)

    @model_validator(mode="after")
    def _combinations(self) -> "OptimConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs momentum")
        if self.min_lr > self.lr:
            raise ValueError("min_lr is above lr")
        return self


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = key("auto", "auto = cuda where there is one", affects="speed")
    amp: Literal["off", "bf16", "fp16"] = key(
        "off", "autocast; losses stay float32", affects="numbers", in_fingerprint=False
    )
    tf32: Literal["auto", "on", "off"] = key(
        "auto",
        "TF32 on CUDA: on = convolutions and matrix products, off, auto = convolutions only, as torch does",
        affects="numbers",
        in_fingerprint=False,
    )
    compile: Literal["off", "default", "max", "graph", "graph_fused"] = key(
        "off",
        "torch.compile of the modules (default, max), or the whole step as one graph (fused: compiled, too)",
        affects="speed",
    )
    channels_last: bool = key(True, "NHWC memory layout", affects="speed")
    deterministic: bool = key(False, "deterministic algorithms only", affects="speed")
    gather: bool = key(
        True,
        "methods relate the samples of the global batch; false: of each rank's, as official code",
        affects="numbers",
        in_fingerprint=False,
    )
    sync_bn: bool = key(
        False, "batch-norm statistics over all ranks (else per rank)", affects="numbers", in_fingerprint=False
    )
    bucket_mb: float = key(25.0, "MiB per DDP bucket", affects="speed", ge=1e-3, le=1e5)
    threads: int = key(0, "CPU threads per rank, 0 = as the environment says", affects="speed", ge=0, le=512)
    parallel_seeds: AtOnce = key(
        1, "runs of seeds=N at once: a number, auto (0) = as many as fit, off (1)", affects="speed", ge=0, le=1024
    )


class OutputConfig(Section):
    dir: PathText = key("runs", "folder of all runs", affects="place")
    name: RunName | None = key(
        None, "folder of this run below run.dir; default <dataset>/<method>/<pair>/seed<k>", affects="place"
    )
    resume: Literal["auto", "never"] = key(
        "auto", "auto = go on where the folder's last checkpoint is", affects="place"
    )
    limit_steps: int | None = key(
        None,
        "optimiser steps of the whole run; the cut epoch is still evaluated",
        affects="numbers",
        in_fingerprint=False,
        ge=1,
        le=NEVER,
    )
    log_every: int = key(50, "steps between reads of the meters", affects="log", ge=1, le=NEVER)
    eval_every: int = key(
        1, "epochs between evaluations; the last epoch is always evaluated", affects="log", ge=1, le=NEVER
    )
    keep_every: int = key(
        0, "epochs between checkpoints that are kept for good, 0 = none", affects="log", ge=0, le=NEVER
    )
    checkpoint_steps: int = key(
        0, "steps between checkpoints inside an epoch, 0 = at epoch ends only", affects="log", ge=0, le=NEVER
    )


class LogConfig(Section):
    tensorboard: bool = key(True, "write TensorBoard events", affects="log")
    wandb: bool = key(False, "log to Weights & Biases (extra [wandb])", affects="log")
    wandb_project: Text = key("stillhouse", "its project", affects="log")
    wandb_offline: bool = key(False, "write its files only, send nothing", affects="log")


class EvaluateConfig(Section):
    """Keys of pipeline/evaluate.py."""

    dataset: Text = key(..., "data set", affects="numbers")
    recipe: Text = key("default", "source whose preprocessing is used", affects="numbers")
    networks: Networks = key("cifar", NETWORKS, affects="numbers")
    student: StudentConfig = StudentConfig()
    part: Literal["student", "teacher"] = key(
        "student", "network to take out of a full distiller checkpoint", affects="numbers"
    )
    root: PathText = key("teachers", "folder where checkpoint=auto looks for published weights", affects="place")
    data: DataConfig = DataConfig()
    runtime: RuntimeConfig = RuntimeConfig()


class ExportConfig(Section):
    """Keys of pipeline/export.py."""

    to: Literal["safetensors", "onnx", "torchscript", "state_dict", "summary"] = key(
        "safetensors", "what to write", affects="numbers"
    )
    out: PathText | None = key(
        None, "file to write, its card beside it as FILE.md; default MODEL.SUFFIX here", affects="place"
    )
    deploy: bool = key(True, "fold re-parameterised blocks into single convolutions", affects="numbers")
    student: StudentConfig = StudentConfig()
    part: Literal["student", "teacher"] = key(
        "student", "network to take out of a full distiller checkpoint", affects="numbers"
    )
    dataset: Text | None = key(
        None, "data set, for image size, mean and std; a run folder says it itself", affects="numbers"
    )
    recipe: Text = key("default", "source whose preprocessing is named in the card", affects="numbers")
    networks: Networks = key("cifar", NETWORKS, affects="numbers")
    num_classes: int | None = key(
        None, "classes; default those of the checkpoint", affects="numbers", ge=1, le=MOST_CLASSES
    )
    root: PathText = key("teachers", "folder where checkpoint=auto looks for published weights", affects="place")
    licence: Text | None = key(None, "licence of the weights, for the card", affects="log")
    data: DataConfig = DataConfig()


class TrainConfig(Section):
    """Keys of pipeline/train.py."""

    dataset: Text = key(..., "data set", affects="numbers")
    pair: Text | None = key(None, "TEACHER-STUDENT out of configs/pairs.yaml", affects="place")
    method: Text = key("vanilla", "distillation method; vanilla = plain training", affects="numbers")
    variant: Text = key("default", "origin of the method's formula; help lists them", affects="numbers")
    recipe: Text = key(
        "default", "source of the training recipe; default = that of the method's paper", affects="numbers"
    )
    method_args: dict[str, Any] = key({}, "hyper-parameters of the method", affects="numbers")
    networks: Networks = key("cifar", NETWORKS, affects="numbers")
    seed: Seed = key(0, "keys the initial weights and the order of samples", affects="numbers")
    seeds: int = key(1, "runs seed, seed + 1, ... and prints mean +- std", affects="place", ge=1, le=10_000)
    select_on: Literal["test", "val"] = key(
        "test", "what `best` is chosen by: test as the field does, or val", affects="numbers"
    )
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
        if self.seed + self.seeds > 2**32:
            raise ValueError(f"seed={self.seed} seeds={self.seeds}: the last seed is above 2^32 - 1")
        return self

    def fingerprint(self) -> str:
        """Hash of every key that says what is trained; where it runs, how it is logged and kept is left out."""
        what = without_later(type(self), self.numbers())
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def numbers(self) -> dict[str, Any]:
        """The keys behind `fingerprint`, nested."""
        what = dumped(self, in_fingerprint(type(self)))
        if self.data.on_bad == "error":  # else it decides which images are replaced
            what["data"].pop("max_pixels")
        return what | {"pair": None}  # hashes have always had it so
