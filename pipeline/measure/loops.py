"""The step, alone and in company: student, teacher, a bare loop of both, our training loop, the whole training."""

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.assemble import build
from pipeline.contracts import Batch
from pipeline.engine.interrupts import Interrupts
from pipeline.engine.loop import Parts, Trainer
from pipeline.engine.metrics import Clock
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.parallel import DTYPES, World, wrap_step
from pipeline.engine.reporter import Reporter
from pipeline.engine.run_dir import RunDir
from pipeline.engine.teacher_pass import teach
from pipeline.measure.device import Spent, inference_flops, timed, training_flops, wait_for
from pipeline.measure.keys import LEAST_STEPS, BenchmarkConfig
from pipeline.measure.rounds import SPEED, Measure, Round

READY = 8  # batches that lie ready on the device
WARM_UP = 3  # steps
COUNTED = 2  # images on which FLOPs are counted


class Undisturbed(Interrupts):
    """Leaves signals alone: there is nothing to save, and Ctrl-C ends a benchmark at once."""

    def __init__(self) -> None:
        pass

    def poll(self) -> int:
        return 0


class ReadyLoader:
    """A Loader of batches that lie on the device: an endless epoch of them in turn."""

    replayable = False
    pixels = "ready"

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.num_samples = len(self) * len(batches[0].label_B)
        self.replaced: dict[int, dict[str, Any]] = {}

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """All epochs are alike."""

    def __len__(self) -> int:
        return 1 << 30

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.batches

    def state_dict(self) -> dict[str, int]:
        """It has no place."""
        return {"epoch": 0, "step": 0}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """See state_dict."""


def full_batches(parts: Parts, config: BenchmarkConfig) -> list[Batch]:
    """The first batches of the training loader; short last ones are left out where there are others."""
    found = [batch for _, batch in zip(range(READY), parts.train, strict=False)]
    most = max(len(batch.label_B) for batch in found)
    return [batch for batch in found if len(batch.label_B) == most]


def fitting(config: BenchmarkConfig, seconds_a_step: float) -> int:
    """Steps of a round: config.batches, or as many as fit into config.seconds."""
    return max(LEAST_STEPS, min(config.batches, int(config.seconds / max(seconds_a_step, 1e-9))))


def per_step(spent: Spent, steps: int, rows: int) -> Round:
    """What one round of `steps` of `rows` images says."""
    peak = None if spent.peak_bytes is None else spent.peak_bytes / 2**20
    return {
        SPEED: steps * rows / spent.seconds,
        "ms_per_step": 1000 * spent.seconds / steps,
        "peak_memory_mib": peak,
    }


def steps_measure(config: BenchmarkConfig, device: torch.device, step: Callable[[int], Any], rows: int) -> Measure:
    """Rounds of step(number). The first one warms up, and tells how many steps fit into a round."""
    counts: list[int] = []

    def run(steps: int) -> None:
        for number in range(steps):
            step(number)

    def measure() -> Round:
        if not counts:
            run(WARM_UP)
            counts.append(fitting(config, timed(device, lambda: run(1)).seconds))
        return per_step(timed(device, lambda: run(counts[0])), counts[0], rows)

    return measure


def step_measures(config: BenchmarkConfig, world: World, folder: Path) -> tuple[dict[str, Measure], dict[str, float]]:
    """(measures on batches that lie ready, by name; FLOPs per image of each)."""
    parts = build(config, world)[0]
    batches = full_batches(parts, config)
    rows, device = len(batches[0].label_B), world.device
    flops = flops_of(parts, batches[0])
    measures = {"student": steps_measure(config, device, bare_step(config, world, parts, batches, False), rows)}
    if "teacher" in flops:
        teacher = parts.teacher
        measures["teacher"] = steps_measure(config, device, lambda n: teacher(batches[n % len(batches)]), rows)
    measures["bare loop"] = steps_measure(config, device, bare_step(config, world, parts, batches, True), rows)
    measures["training loop"] = ready_loop(config, world, parts, batches, folder)
    both = sum(flops.values())
    flops |= {"bare loop": both, "training loop": both}
    for name, other in without_a_teacher(config).items():
        measures[name] = ready_loop(other, world, build(other, world)[0], batches, folder / name)
        flops[name] = flops["student"]
    return measures, flops


def without_a_teacher(config: BenchmarkConfig) -> dict[str, BenchmarkConfig]:
    """What a cache is compared with, where one is given: training without a teacher, and from the records."""
    if config.teacher.cache is None:
        return {}
    plain = {"method": "vanilla", "variant": "default", "method_args": {}}
    cached = config.teacher.model_copy(update={"source": "cached"})
    return {
        "plain training loop": config.model_copy(update=plain),
        "cached training loop": config.model_copy(update={"teacher": cached}),
    }


def flops_of(parts: Parts, batch: Batch) -> dict[str, float]:
    """{'student': forward and backward, 'teacher': forward}, per image; without what the method itself computes."""
    few_BCHW = batch.image_BCHW[:COUNTED]
    found = {"student": training_flops(copy.deepcopy(parts.student).train(), few_BCHW)}
    network = getattr(parts.teacher, "network", None)
    if network is not None:
        found["teacher"] = inference_flops(network, parts.teacher.prepare(few_BCHW))  # type: ignore[attr-defined]
    return found


def bare_step(
    config: BenchmarkConfig, world: World, parts: Parts, batches: list[Batch], taught: bool
) -> Callable[[int], None]:
    """A copy of the student on batches that lie ready: teacher forward (if taught), forward, backward, fused update.

    Autocast and compiled as the run is, and nothing else: no method, no meters, no schedule.
    """
    student = copy.deepcopy(parts.student)
    optimizer = build_optimizer(student, config.optim)
    student = wrap_step(student, config.runtime, world).train()

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        teacher = parts.teacher(batch) if taught else None
        with parts.autocast():
            logits_BK = student(batch.image_BCHW).logits_BK.float()
        loss = F.cross_entropy(logits_BK, batch.label_B)
        if teacher is not None:
            log_p, log_t = F.log_softmax(logits_BK / 4, 1), F.log_softmax(teacher.logits_BK / 4, 1)
            loss = loss + 16 * F.kl_div(log_p, log_t, reduction="batchmean", log_target=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def trainer_of(config: BenchmarkConfig, world: World, parts: Parts, folder: Path) -> Trainer:
    """Our training loop, ready to take steps."""
    if parts.distiller.teacher_pass:
        teach(parts.distiller, parts.teacher, parts.train, world)
    run = RunDir(folder)
    run.checkpoints.folder.mkdir(parents=True)
    trainer = Trainer(parts, config, world, run, Reporter(leader=False))
    trainer.runner.settle()
    return trainer


def advance(trainer: Trainer, steps: int) -> None:
    """`steps` further steps of the training loop, over the borders of epochs; nothing is evaluated or saved there."""
    trainer.total_steps = trainer.done + steps
    while trainer.done < trainer.total_steps:
        trainer.closed = trainer.done // trainer.steps_per_epoch
        trainer.train_epoch(Undisturbed())


def ready_loop(config: BenchmarkConfig, world: World, parts: Parts, batches: list[Batch], folder: Path) -> Measure:
    """Our training loop on batches that lie ready: method, update, meters, latch, signals, log lines."""
    trainer = trainer_of(config, world, parts, folder)
    trainer.parts = dataclasses.replace(parts, train=ReadyLoader(batches))
    trainer.steps_per_epoch = len(trainer.parts.train)
    rows, counts = len(batches[0].label_B), list[int]()

    def measure() -> Round:
        if not counts:
            advance(trainer, WARM_UP)
            spent = timed(world.device, lambda: advance(trainer, 1))
            counts.append(fitting(config, spent.seconds))
        return per_step(timed(world.device, lambda: advance(trainer, counts[0])), counts[0], rows)

    return measure


def whole_training(config: BenchmarkConfig, world: World, folder: Path) -> Measure:
    """Our training loop behind the real loader, and the share of its time that it waits for data.

    The loader starts anew each round; its first step, which waits for that, is left out.
    """
    trainer = trainer_of(config, world, build(config, world)[0], folder)
    counts, wait = list[int](), wait_for(world.device)

    def measure() -> Round:
        if not counts:
            advance(trainer, WARM_UP)
            begin = time.perf_counter()
            advance(trainer, WARM_UP)
            counts.append(fitting(config, (time.perf_counter() - begin) / WARM_UP))
        trainer.clock = clock = Clock()
        clock.steps = Clock.WARM_UP - 1
        advance(trainer, counts[0] + 1)
        ended = time.perf_counter()
        wait()
        seconds = clock.seconds + time.perf_counter() - ended
        return {SPEED: clock.images / seconds, "data_wait": clock.waited / seconds}

    return measure


def working_dtype(config: BenchmarkConfig) -> torch.dtype:
    """What the networks compute in."""
    return DTYPES.get(config.runtime.amp, torch.float32)
