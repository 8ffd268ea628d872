"""Measure a part of the pipeline against a yardstick, interleaved in one run.

python pipeline/benchmark.py what=loader dataset=cifar100 data.root=D
    our loaders against torchvision's Dataset + DataLoader with data.workers workers
python pipeline/benchmark.py what=step dataset=cifar100 data.root=D pair=resnet56-resnet20 method=kd \\
    teacher.checkpoint=none
    the training loop against a bare loop of the same networks (forward, backward, fused update, nothing else)
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F

from pipeline import entry
from pipeline.assemble import ALIASES, NAMES, build, image_set, loader_maker, make_plan
from pipeline.config import TrainConfig, compose, describe
from pipeline.config.schema import key
from pipeline.contracts import Batch, InputError
from pipeline.distillers import DISTILLERS
from pipeline.engine import parallel
from pipeline.engine.interrupts import Interrupts
from pipeline.engine.loop import Trainer
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.parallel import World
from pipeline.engine.reporter import Reporter
from pipeline.engine.run_dir import RunDir, environment
from pipeline.vision import torchvision

Measure = Callable[[], float]


class BenchmarkConfig(TrainConfig):
    """Keys of pipeline/benchmark.py: those of pipeline/train.py and these."""

    what: Literal["loader", "step"] = key("step", "part to measure")
    steps: int = key(60, "batches a round", ge=10)
    rounds: int = key(5, "rounds; the median is reported", ge=1)


def per_second(images: int, seconds: float) -> float:
    """Images per second."""
    return images / seconds


def our_loader(name: str, config: BenchmarkConfig, world: World) -> Measure:
    """Images/s of one of our loaders over config.steps batches, normalised tensors on the device."""
    images = image_set(config.dataset, config.data, "train", world)
    make = loader_maker(config.data.model_copy(update={"loader": name}))
    loader = make(images, make_plan(config.data, config.runtime, world, seed=config.seed))
    epoch = iter(range(10**6))

    def measure() -> float:
        loader.set_epoch(next(epoch))
        batches = iter(loader)
        next(batches)  # worker processes start here
        start, count = time.perf_counter(), 0
        for _, batch in zip(range(config.steps), batches, strict=False):
            count += len(batch.label_B)
        return per_second(count, time.perf_counter() - start)

    return measure


def torchvision_loader(config: BenchmarkConfig) -> Measure:
    """Images/s of torchvision's Dataset + DataLoader with the transforms of RepDistiller and mdistiller."""
    tv = torchvision()
    transforms = tv.transforms
    data = config.data
    chain = transforms.Compose(
        [
            transforms.RandomCrop(data.image_size, padding=data.padding),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    kinds = {"cifar10": tv.datasets.CIFAR10, "cifar100": tv.datasets.CIFAR100}
    if config.dataset not in kinds or data.root is None:
        raise InputError(f"what=loader compares on {', '.join(kinds)} with data.root=")
    # The integrity check of the package wants the original archive; a re-ordered copy holds the same images.
    rival = type("Unchecked", (kinds[config.dataset],), {"_check_integrity": lambda self: True, "_load_meta": _no_meta})
    images = rival(data.root, train=True, transform=chain)
    loader = torch.utils.data.DataLoader(
        images, batch_size=data.batch_size, shuffle=True, num_workers=data.workers, persistent_workers=data.workers > 0
    )

    def measure() -> float:
        batches = iter(loader)
        next(batches)
        start, count = time.perf_counter(), 0
        for _, (_, label_B) in zip(range(config.steps), batches, strict=False):
            count += len(label_B)
        return per_second(count, time.perf_counter() - start)

    return measure


def _no_meta(images: Any) -> None:
    images.classes, images.class_to_idx = [], {}


def training_loop(config: BenchmarkConfig, world: World, folder: Path) -> Measure:
    """Images/s of our loop: loader, teacher, step, update, meters, latch, signals, log lines."""
    parts = build(config, world)[0]
    run = RunDir(folder)
    run.checkpoints.folder.mkdir(parents=True)
    trainer = Trainer(parts, config, world, run, Reporter(leader=False))
    interrupts = Interrupts(world)

    def measure() -> float:
        trainer.closed = trainer.done // trainer.steps_per_epoch
        trainer.total_steps = trainer.done + config.steps
        start = time.perf_counter()
        trainer.train_epoch(interrupts)
        return per_second(config.steps * config.data.batch_size, time.perf_counter() - start)

    return measure


def bare_loop(config: BenchmarkConfig, world: World) -> Measure:
    """Images/s of the same networks on batches that lie ready: teacher forward, forward, backward, fused update."""
    parts = build(config, world)[0]
    optimizer = build_optimizer(parts.student, config.optim)
    batches: list[Batch] = [batch for _, batch in zip(range(8), parts.train, strict=False)]
    parts.student.train()

    def measure() -> float:
        start = time.perf_counter()
        for number in range(config.steps):
            batch = batches[number % len(batches)]
            teacher = parts.teacher(batch)
            logits_BK = parts.student(batch.image_BCHW).logits_BK
            loss = F.cross_entropy(logits_BK, batch.label_B)
            if teacher is not None:
                log_p, log_t = F.log_softmax(logits_BK / 4, 1), F.log_softmax(teacher.logits_BK / 4, 1)
                loss = loss + 16 * F.kl_div(log_p, log_t, reduction="batchmean", log_target=True)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return per_second(config.steps * config.data.batch_size, time.perf_counter() - start)

    return measure


def interleaved(measures: dict[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Each measure once per round, after one round that warms up."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number:
                results[name].append(value)
    return results


def report(results: dict[str, list[float]], yardstick: str) -> dict[str, Any]:
    """Prints medians, ranges and ratios to the yardstick; returns them."""
    base = statistics.median(results[yardstick])
    rows = {}
    for name, values in results.items():
        middle = statistics.median(values)
        rows[name] = {"images_per_second": round(middle, 1), "ratio": round(middle / base, 3)}
        print(f"{name:32} {middle:10.0f} images/s ({min(values):.0f} to {max(values):.0f})  x {middle / base:.3f}")
    return rows


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(
        BenchmarkConfig, argv, aliases=ALIASES, names=NAMES, arguments_of=lambda name: DISTILLERS.get(name).Config
    )
    with parallel.start(config.runtime) as world, tempfile.TemporaryDirectory() as folder:
        if config.what == "loader":
            measures = {f"ours, {name}": our_loader(name, config, world) for name in ("resident", "torch")}
            yardstick = f"torchvision, {config.data.workers} workers"
            measures[yardstick] = torchvision_loader(config)
        else:
            yardstick = "bare loop"
            measures = {"training loop": training_loop(config, world, Path(folder) / "run")}
            measures[yardstick] = bare_loop(config, world)
        rows = report(interleaved(measures, config.rounds), yardstick)
        machine = {k: v for k, v in environment().items() if k in ("versions", "cpu_count", "cpu_threads", "gpus")}
        print(json.dumps({"what": config.what, "rounds": config.rounds, "results": rows, **machine}))


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", BenchmarkConfig)


if __name__ == "__main__":
    entry.run(main, help_text, {})
