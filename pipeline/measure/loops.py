"""Our training loop under the clock: on batches that lie ready, and behind the real loader."""

import copy
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.builders.run import build
from pipeline.contracts import Batch, Loader
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import DTYPES, World
from pipeline.engine.distributed.preemption import Interrupts
from pipeline.engine.metrics import Clock
from pipeline.engine.reporting.reporter import Reporter
from pipeline.engine.teacher_pass import teach
from pipeline.engine.trainer import Trainer
from pipeline.engine.warm_up import warm_up
from pipeline.measure.device import Spent, timed, wait_for
from pipeline.measure.keys import LEAST_STEPS, BenchmarkConfig
from pipeline.measure.rounds import SPEED, Measure, Round, cpu_seconds, per_core
from pipeline.run_folder.folder import RunDir

READY = 8  # batches that lie ready on the device
WARM_UP = 3  # steps
T = TypeVar("T")


class Undisturbed(Interrupts):
    """Leaves signals alone: there is nothing to save, and Ctrl-C ends a benchmark at once."""

    def __init__(self) -> None:
        pass

    def poll(self) -> int:
        return 0

    def awaited(self, batches: Iterable[T]) -> Iterator[T]:
        return iter(batches)


class OnlyNotes(Reporter):
    """Tells on stderr what a figure must not hide: steps that run otherwise than was asked (runtime.compile=graph)."""

    def __init__(self, world: World) -> None:
        super().__init__(leader=False)
        self.told = world.leader

    def note(self, text: str) -> None:
        if self.told:
            print(text, file=sys.stderr, flush=True)

    def figures(self, *_: object) -> None:
        """Those are the benchmark's."""


class ReadyLoader:
    """A Loader of batches that lie on the device: an endless epoch of them in turn."""

    replayable = False
    pixels = "ready"
    drafts = False

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


def full_batches(loader: Loader) -> list[Batch]:
    """The first batches of the training loader; short last ones are left out where there are others."""
    found = [batch for _, batch in zip(range(READY), loader, strict=False)]
    most = max(len(batch.label_B) for batch in found)
    return [batch for batch in found if len(batch.label_B) == most]


def fitting(config: BenchmarkConfig, seconds_a_step: float) -> int:
    """Steps of a round: config.batches, or as many as fit into config.seconds."""
    return max(LEAST_STEPS, min(config.batches, int(config.seconds / max(seconds_a_step, 1e-9))))


def steps_round(device: torch.device, run: Callable[[int], Any], steps: int, rows: int) -> Round:
    """What run(steps), of `rows` images a step, says."""
    worked = cpu_seconds()
    spent: Spent = timed(device, lambda: run(steps))
    return {
        SPEED: steps * rows / spent.seconds,
        "steps": steps,
        "ms_per_step": 1000 * spent.seconds / steps,
        "per_core": per_core(steps * rows, worked),
        "peak_memory_mib": None if spent.peak_bytes is None else spent.peak_bytes / 2**20,
    }


def runs_measure(config: BenchmarkConfig, device: torch.device, run: Callable[[int], Any], rows: int) -> Measure:
    """Rounds of run(steps). The first one warms up, and tells how many steps fit into a round."""
    counts: list[int] = []

    def measure() -> Round:
        if not counts:
            run(WARM_UP)
            counts.append(fitting(config, timed(device, lambda: run(WARM_UP)).seconds / WARM_UP))
        return steps_round(device, run, counts[0], rows)

    return measure


def steps_measure(config: BenchmarkConfig, device: torch.device, step: Callable[[int], Any], rows: int) -> Measure:
    """Rounds of step(number)."""

    def run(steps: int) -> None:
        for number in range(steps):
            step(number)

    return runs_measure(config, device, run, rows)


def built(config: BenchmarkConfig, world: World) -> Parts:
    """All parts of a run, with what the method learns from its teacher before the first step."""
    parts = build(config, world)[0]
    if parts.distiller.teacher_pass:
        teach(parts.distiller, parts.teacher, parts.train, world)
    return parts


def own(parts: Parts, **changes: Any) -> Parts:
    """The parts with copies of what a training changes. changes: as of dataclasses.replace."""
    student, distiller = copy.deepcopy((parts.student, parts.distiller))
    return dataclasses.replace(parts, **({"student": student, "distiller": distiller} | changes))


def trainer_of(config: BenchmarkConfig, world: World, parts: Parts, folder: Path) -> Trainer:
    """Our training loop, ready to take steps. parts: as of `built`."""
    run = RunDir(folder)
    run.checkpoints.folder.mkdir(parents=True)
    trainer = Trainer(parts, config, world, run, OnlyNotes(world))
    warm_up(trainer.train_step)
    return trainer


def advance(trainer: Trainer, steps: int) -> None:
    """`steps` further steps of the training loop, over the borders of epochs; nothing is evaluated or saved there."""
    trainer.train_steps(steps, Undisturbed())


def ready_trainer(config: BenchmarkConfig, world: World, parts: Parts, batches: list[Batch], folder: Path) -> Trainer:
    """Our training loop on batches that lie ready: method, update, meters, latch, signals, log lines."""
    return trainer_of(config, world, dataclasses.replace(parts, train=ReadyLoader(batches)), folder)


def ready_loop(config: BenchmarkConfig, world: World, parts: Parts, batches: list[Batch], folder: Path) -> Measure:
    """Rounds of ready_trainer."""
    trainer = ready_trainer(config, world, parts, batches, folder)
    return runs_measure(config, world.device, lambda steps: advance(trainer, steps), len(batches[0].label_B))


def whole_training(config: BenchmarkConfig, world: World, parts: Parts, folder: Path) -> Measure:
    """Our training loop behind the real loader, and the share of its time that it waits for data.

    The loader starts anew each round; its first step, which waits for that, is left out of the time (not of the
    processor's, which also has what the loader computes for the epoch: see `per core` where rounds are long).
    """
    trainer = trainer_of(config, world, parts, folder)
    counts, wait = list[int](), wait_for(world.device)

    def measure() -> Round:
        if not counts:
            advance(trainer, WARM_UP)
            begin = time.perf_counter()
            advance(trainer, WARM_UP)
            counts.append(fitting(config, (time.perf_counter() - begin) / WARM_UP))
        trainer.clock = clock = Clock()
        clock.steps = Clock.WARM_UP - 1
        worked = cpu_seconds()
        advance(trainer, counts[0] + 1)
        wait()
        clock.computed()
        seconds = clock.seconds
        return {
            SPEED: clock.images / seconds,
            "ms_per_step": 1000 * seconds / counts[0],
            "data_wait": clock.waited / seconds,
            "per_core": per_core(round(clock.images * (counts[0] + 1) / counts[0]), worked),
        }

    return measure


def working_dtype(config: BenchmarkConfig) -> torch.dtype:
    """What the networks compute in."""
    return DTYPES.get(config.runtime.amp, torch.float32)
