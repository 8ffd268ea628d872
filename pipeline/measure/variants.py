"""Our training loop with one part after the other taken away: what each part of a step costs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, TeacherSource, View
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import World
from pipeline.engine.forward import StepOutput
from pipeline.engine.train_step import StepAt, TrainStep
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.limits import four
from pipeline.measure.loops import own, ready_loop, steps_measure
from pipeline.measure.rounds import SPEED, Measure
from pipeline.teachers.live import NoTeacher

WITH_LOADER, LOOP = "with the loader", "training loop"
NO_TEACHER, NO_LOSS, FORWARD, UPDATE, METERS = "no teacher", "no loss", "student forward", "update", "meters and latch"
NAMES = (NO_TEACHER, NO_LOSS, FORWARD, UPDATE, METERS)


class Remembered:
    """The outputs of another source for the first batch of each shape that it saw: a teacher that costs nothing."""

    recorded = False

    def __init__(self, source: TeacherSource) -> None:
        self.source, self.provides, self.views = source, source.provides, source.views
        self.known: dict[tuple[int, ...], ModelOutput | None] = {}

    @property
    def network(self) -> Any:
        """Of the other source."""
        return self.source.network

    def modules(self) -> Sequence[nn.Module]:
        """None: what is remembered runs nothing."""
        return ()

    def __call__(self, batch: Batch) -> ModelOutput | None:
        key = tuple(batch.image_BCHW.shape)
        if key not in self.known:
            self.known[key] = self.source(batch)
        return self.known[key]


class PlainSum(Distiller):
    """No method: one number out of the student's logits. The mean, whose gradient does not grow with the batch."""

    needs = Signal.NONE

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        return {"ce": student.logits_BK.mean()}


def variant_measures(
    config: BenchmarkConfig, world: World, parts: Parts, batches: list[Batch], folder: Path
) -> dict[str, Measure]:
    """Measures by name; each on a student of its own."""
    found: dict[str, Measure] = {}
    if parts.teacher.provides:
        taught = own(parts, teacher=Remembered(parts.teacher))
        found[NO_TEACHER] = ready_loop(config, world, taught, batches, folder / "no-teacher")
    plain = own(parts, teacher=NoTeacher(), distiller=PlainSum(None))
    found[NO_LOSS] = ready_loop(config, world, plain, batches, folder / "no-loss")
    rows = len(batches[0].label_B)
    alone = single_parts(config, world, own(parts), batches)
    return found | {name: steps_measure(config, world.device, step, rows) for name, step in alone.items()}


def single_parts(
    config: BenchmarkConfig, world: World, parts: Parts, batches: list[Batch]
) -> dict[str, Callable[[int], Any]]:
    """Steps of one part alone, eager: the student's forward in training, the update, meters and latch."""
    eager = config.model_copy(update={"runtime": config.runtime.model_copy(update={"compile": "off"})})
    step = TrainStep(parts, eager, world, None, lambda text: None)
    step.train_mode()
    first = batches[0]
    step.run(first, StepAt(number=0, progress=0.0, rate=eager.optim.lr, rows=len(first.label_B)))
    slices = parts.distiller.main_batch(first).split(eager.optim.accumulate)
    outputs = [_without_gradients(step.forward(step.progress, *step.taught(part, {}))) for part in slices]
    merged, fine = StepOutput.merged(outputs), torch.tensor(False, device=world.device)
    updater = step.updater
    updater.mean_over_ranks = lambda gradients: None
    gradients = [torch.full_like(p, 1e-4) for p in updater.parameters]  # as small as those of a trained network

    def forward(number: int) -> None:
        with parts.autocast():
            parts.student(batches[number % len(batches)].image_BCHW, features=parts.distiller.student_features)

    def update(number: int) -> None:
        for parameter, gradient in zip(updater.parameters, gradients, strict=True):
            parameter.grad = gradient
        if updater.by_kind:
            updater.kinds = [list(gradients), list(gradients)]
        updater.update(merged.loss)

    def read(number: int) -> None:
        for output, part in zip(outputs, slices, strict=True):
            step.meters.add(output, part)
        step.number.fill_(number)
        step.latch.observe(fine, merged, first, step.number)

    return {FORWARD: forward, UPDATE: update, METERS: read}


def _without_gradients(output: StepOutput) -> StepOutput:
    return output._replace(loss=output.loss.detach(), task=None)


def parts_of_step(rows: Mapping[str, Mapping[str, Any]], images: int) -> dict[str, dict[str, float | None]]:
    """{part: ms (median over the rounds), share of the whole, core_ms}, by differences within each round.

    rows: all that was measured, by name; images: of a step. core_ms: milliseconds of processor time, from the medians:
    what is left of the truth where others use the cores too. On a GPU parts overlap, and differences say what leaving
    a part out would save.
    """
    ms = {name: [1000 * images / speed for speed in row["rounds"]] for name, row in rows.items()}
    found = [_differences({name: each[i] for name, each in ms.items()}) for i in range(len(ms[LOOP]))]
    total = statistics.median(ms.get(WITH_LOADER, ms[LOOP]))
    known = all(row.get("per_core") for row in rows.values())
    core = _differences({name: 1000 * images / row["per_core"] for name, row in rows.items()}) if known else {}
    return {
        part: {
            "ms": four(median := statistics.median(each[part] for each in found)),
            "share": round(median / total, 4),
            "core_ms": four(core[part]) if known else None,
        }
        for part in found[0]
    }


def _differences(ms: Mapping[str, float]) -> dict[str, float]:
    """Parts that add up to the whole."""
    loop = ms[LOOP]
    taught = ms.get(NO_TEACHER, loop)
    return {
        "images: order, crop, flip": ms.get(WITH_LOADER, loop) - loop,
        "teacher": loop - taught,
        "method's loss": taught - ms[NO_LOSS],
        "student forward": ms[FORWARD],
        "student backward": ms[NO_LOSS] - ms[FORWARD] - ms[UPDATE] - ms[METERS],
        "update": ms[UPDATE],
        "meters and latch": ms[METERS],
    }


def backward_share(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """The share of a step on ready batches in which gradients are made, of medians: where an all-reduce can hide."""
    seconds = {name: 1 / row[SPEED] for name, row in rows.items()}
    return round(max(0.0, min(1.0, _differences(seconds)["student backward"] / seconds[LOOP])), 4)
