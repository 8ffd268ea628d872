"""Who takes part in what=step and what=train, and what is known of each without a clock."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.builders.run import image_set
from pipeline.config import RuntimeConfig
from pipeline.contracts import Batch, InputError
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import World
from pipeline.measure.bare import bare_step
from pipeline.measure.counters import Count, counted
from pipeline.measure.device import inference_flops, training_flops
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.loops import (
    advance,
    built,
    full_batches,
    own,
    ready_loop,
    ready_trainer,
    steps_measure,
    whole_training,
)
from pipeline.measure.research_loop import research_loop
from pipeline.measure.rounds import Measure
from pipeline.measure.variants import LOOP, NAMES, WITH_LOADER, variant_measures

BARE, STUDENT, TEACHER, RESEARCH = "bare loop", "student", "teacher", "research code"
COUNTED = 2  # images on which FLOPs are counted
Make = Callable[[], Measure]


@dataclass(kw_only=True)
class Contest:
    """measures: by name, in the order they are shown; flops: per image, counts: of an eager step, where they are known.

    absent: reasons of those who cannot take part; images: of a step; parameters: that are trained.
    """

    measures: dict[str, Measure] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    images: int
    parameters: int


class Contestants:
    """Builds those that the configuration asks for, on one set of batches that lie ready."""

    def __init__(self, config: BenchmarkConfig, world: World, folder: Path) -> None:
        self.config, self.world, self.folder = config, world, folder
        self.parts = built(config, world)
        self.batches = full_batches(self.parts.train)
        trained = (p for net in (self.parts.student, self.parts.distiller) for p in net.parameters() if p.requires_grad)
        self.found = Contest(
            images=len(self.batches[0].label_B), parameters=sum({id(p): p.numel() for p in trained}.values())
        )

    def gather(self) -> Contest:
        """All of them, or those of rows= and the bare loop. Raises InputError for an unknown name."""
        self._networks()
        self._loops()
        if self.config.variants and not self.config.rows:
            self.found.measures |= variant_measures(*self._given(), self.batches, self.folder / "variants")
        unknown = set(self.config.rows) - set(self.found.measures) - set(self.found.absent)
        if unknown:
            known = ", ".join(self.found.measures)
            raise InputError(f"rows={','.join(self.config.rows)}: there is no {min(unknown)!r} (known here: {known})")
        return self.found

    def _given(self) -> tuple[BenchmarkConfig, World, Parts]:
        return self.config, self.world, self.parts

    def _add(self, name: str, make: Make, flops: float | None = None) -> None:
        if self.config.rows and name not in (*self.config.rows, BARE):
            return
        try:
            self.found.measures[name] = make()
        except InputError as error:
            if name == BARE or name in self.config.rows:
                raise
            self.found.absent[name] = str(error)
            return
        if flops is not None:
            self.found.flops[name] = flops

    def _networks(self) -> None:
        """Student, teacher, and both in a bare loop."""
        given, batches, images = self._given(), self.batches, self.found.images
        flops = flops_of(self.parts, batches[0])
        self._both = sum(flops.values())

        def steps(step: Callable[[int], object]) -> Measure:
            return steps_measure(self.config, self.world.device, step, images)

        self._add(STUDENT, lambda: steps(bare_step(*given, batches, False)), flops["student"])
        if "teacher" in flops:
            teacher = self.parts.teacher
            self._add(TEACHER, lambda: steps(lambda n: teacher(batches[n % len(batches)])), flops["teacher"])
        self._add(BARE, lambda: steps(bare_step(*given, batches, True)), self._both)

    def _loops(self) -> None:
        """Our training loop as it is, under other modes of torch.compile, from a cache, behind the loader."""
        config, world, folder, batches = self.config, self.world, self.folder, self.batches

        def loop(other: BenchmarkConfig, name: str) -> Measure:
            return ready_loop(other, world, built(other, world), batches, folder / name)

        self._add(LOOP, lambda: ready_loop(*self._given(), batches, folder / "loop"), self._both)
        for mode in config.compiles:
            runtime = RuntimeConfig(**(config.runtime.model_dump() | {"compile": mode}))
            other = config.model_copy(update={"runtime": runtime})
            self._add(f"{LOOP}, compile={mode}", lambda o=other, m=mode: loop(o, f"compile-{m}"), self._both)  # type: ignore[misc]
        for name, other in without_a_teacher(config).items():
            self._add(name, lambda o=other, n=name: loop(o, n), flops_of(self.parts, batches[0])["student"])  # type: ignore[misc]
        if config.variants or "train" in config.parts:
            self._add(WITH_LOADER, lambda: whole_training(config, world, own(self.parts), folder / "whole"))
        if "train" in config.parts:
            images = image_set(config.dataset, config.data, "train", world)
            self._add(RESEARCH, lambda: research_loop(config, world, images))

    def count(self) -> dict[str, Count]:
        """One eager step of student, teacher, bare loop and training loop: operations, bytes, host reads."""
        config, batches = eager(self.config), self.batches
        parts = built(config, self.world) if self.config.runtime.compile != "off" else self.parts
        works: dict[str, Callable[[int], object]] = {
            STUDENT: bare_step(config, self.world, parts, batches, False),
            TEACHER: lambda n: parts.teacher(batches[n % len(batches)]),
            BARE: bare_step(config, self.world, parts, batches, True),
        }
        if LOOP in self.found.measures:
            trainer = ready_trainer(config, self.world, own(parts), batches, self.folder / "counted")
            works[LOOP] = lambda n: advance(trainer, 1)
        return {name: counted(work) for name, work in works.items() if name in self.found.measures}


def eager(config: BenchmarkConfig) -> BenchmarkConfig:
    """Without torch.compile, into whose graphs no counter sees."""
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"compile": "off"})})


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
    if network is not None and not parts.teacher.recorded:
        found["teacher"] = inference_flops(network, parts.teacher.prepare(few_BCHW))  # type: ignore[attr-defined]
    return found


def is_variant(name: str) -> bool:
    """Whether a row is there for the parts of the step only."""
    return name in NAMES
