"""Trainings for the stages: data of noise, pairs of networks, our loop ready to take steps."""

import pickle
import tempfile
from pathlib import Path

import numpy as np

from pipeline.builders.names import config_of
from pipeline.engine.trainer import Trainer
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.loops import built, trainer_of
from tools.gpu.probes.bench import Bench

CLASSES, MOST_TESTED = 100, 10_000
PAIR = {False: ("resnet32x4", "resnet8x4"), True: ("resnet14", "resnet8")}  # by Bench.small


def noise_cifar(bench: Bench, rows: int) -> Path:
    """CIFAR-100's archive with noise for images: speed does not depend on what they show."""
    root = bench.scratch / f"noise{rows}"
    folder = root / "cifar-100-python"
    if (folder / "meta").exists():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", rows), ("test", min(rows, MOST_TESTED))):
        labels = [i % CLASSES for i in range(count)]
        record = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "fine_labels": labels}
        (folder / split).write_bytes(pickle.dumps(record, protocol=4))
    names = {"fine_label_names": [f"class{i:02d}" for i in range(CLASSES)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=4))
    return root


def pair_words(bench: Bench, rows: int, *more: str) -> list[str]:
    """kd on the pair of the protocol (a tiny one where it is only tried out), on `rows` images of noise."""
    teacher, student = PAIR[bench.small]
    data = ("dataset=cifar100", f"data.root={noise_cifar(bench, rows)}", "data.batch_size=64")
    names = (f"teacher.model={teacher}", f"student.model={student}", "teacher.checkpoint=none", "method=kd")
    return [*data, *names, *more]


def alone_words(bench: Bench, rows: int, *more: str) -> list[str]:
    """The student of `pair_words` by itself."""
    data = ("dataset=cifar100", f"data.root={noise_cifar(bench, rows)}", "data.batch_size=64")
    return [*data, f"model={PAIR[bench.small][1]}", "method=vanilla", *more]


def configured(bench: Bench, words: list[str]) -> BenchmarkConfig:
    """The configuration of a run of `words` on the bench's device."""
    own = [f"runtime.device={bench.device.type}", "log.tensorboard=false"]
    return config_of(BenchmarkConfig, [*words, *own])


def folder_of(bench: Bench) -> Path:
    """A run folder of its own."""
    return Path(tempfile.mkdtemp(dir=bench.scratch)) / "run"


def trainer(bench: Bench, words: list[str]) -> Trainer:
    """Our training loop on real loaders."""
    bench.settle()
    config = configured(bench, words)
    world = bench.world(config.runtime)
    return trainer_of(config, world, built(config, world), folder_of(bench))
