"""One training step in one place, taken plainly or as one graph (runtime.compile=graph).

Outside a graph stay what comes from the host (StepAt: numbers that are filled into tensors), the batch, and what a
cached teacher says of it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.contracts import Batch, Distiller, InputError, ModelOutput
from pipeline.engine.components import Parts
from pipeline.engine.distributed.gather import GlobalRows, mean_over_ranks
from pipeline.engine.distributed.parallel import World, as_graph, forget_reduction, unreduced, wrap_step
from pipeline.engine.forward import DistillationStep, StepOutput, Taught
from pipeline.engine.graph.backends import Pixels, Recorder
from pipeline.engine.graph.cache import GraphCache
from pipeline.engine.metrics import Meters
from pipeline.engine.nonfinite import Latch
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.update import Updater
from pipeline.engine.what_ran import WhatRan


class StepAt(NamedTuple):
    """Where a run takes a step. number: of the step, from 0; progress: epochs done, with fraction; rate: of learning;
    rows: images of the global batch."""

    number: int
    progress: float
    rate: float
    rows: int


class StepInputs(NamedTuple):
    """What a step works on: a pytree. known: what a cached teacher says, by the name of the view that it was asked of;
    {} where the step asks the teacher itself."""

    batch: Batch
    known: Mapping[str, ModelOutput]


class TrainStep:
    """Teacher, student, losses, backward, update and bookkeeping of one step: `take`.

    recorder: what makes graphs of steps, None = plain steps. note: told why steps are plain ones where graphs were
    asked for: a method that is not capturable, an update rule that reads the host, or a cached teacher with slices of
    batches (optim.accumulate).
    """

    def __init__(
        self, parts: Parts, config: TrainConfig, world: World, recorder: Recorder | None, note: Callable[[str], Any]
    ) -> None:
        self.parts, self.config, self.world, self.recorder = parts, config, world, recorder
        self.distiller, self.teacher = parts.distiller, parts.teacher
        self.rows = GlobalRows(world, enabled=config.runtime.gather, slices=config.optim.accumulate)
        for method in (m for m in self.distiller.modules() if isinstance(m, Distiller)):
            method.gather_rows, method.label_smoothing = self.rows, config.optim.label_smoothing
        self.module = DistillationStep(parts.student, self.distiller, parts.autocast)
        self.updater = Updater(
            self.module,
            parts.student,
            build_optimizer(self.module, config.optim),
            config.optim,
            fp16=config.runtime.amp == "fp16",
            predictor=self.distiller.predictor(),
            rate_on_device=as_graph(config.runtime),
            mean_over_ranks=partial(mean_over_ranks, world),
        )
        self.forward: nn.Module = self.module
        if not self.updater.by_kind:  # two gradients of one forward: DDP would reduce the first one only
            self.on_its_stream(self._wrap)
        self.progress = torch.zeros((), device=world.device)
        self.number = torch.zeros((), dtype=torch.int64, device=world.device)
        self.meters, self.latch = Meters(world.device), Latch(world.device, config.data.batch_size)
        self.ran = WhatRan(config.runtime, world, note, made=lambda: self.graph.makes)
        reason = self._why_plain() if as_graph(config.runtime) else None
        if reason:
            self.ran.fall_back(reason)
        self.graph = GraphCache(self.take, None if reason else recorder, self.ran.fall_back, self.state, self.forget)

    def run(self, batch: Batch, at: StepAt) -> bool:
        """Takes a step on this rank's part of a global batch. True: time went into making a graph.

        Raises InputError where the first step fails because the method's answer is not what it must be.
        """
        self.updater.set_lr(at.rate)
        self.progress.fill_(at.progress)
        self.number.fill_(at.number)
        self.rows.rows = at.rows
        first, self.ran.taken = not self.ran.taken, True
        try:
            if self.graph.recorder is not None:
                short = at.rows < self.config.data.batch_size
                return self.graph(StepInputs(batch, self._looked_up(batch)), at.rows, short=short)
            if self.recorder is not None:
                self.recorder.run(lambda: self.take(StepInputs(batch, {})))
            else:
                self.take(StepInputs(batch, {}))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if first and (reason := self._broken(batch)):
                raise InputError(reason) from error
            raise
        return False

    def take(self, inputs: StepInputs) -> None:
        """The step itself: teacher, student and losses, backward, update, bookkeeping."""
        batch = inputs.batch.finished(self._fuse)  # makes the pixels, where the loader left that to the step
        slices = self.distiller.main_batch(batch).split(self.config.optim.accumulate)
        outputs: list[StepOutput] = []
        for part in slices:
            taught = self.taught(part, inputs.known)
            with unreduced(self.forward, last=part is slices[-1]):  # DDP reduces with the last slice only
                output: StepOutput = self.forward(self.progress, *taught)
                self.updater.backward(output.loss, output.task, part.info.share)  # share: of the global mean
            outputs.append(output)
        merged = StepOutput.merged(outputs)
        skipped = self.updater.update(merged.loss)
        for output, part in zip(outputs, slices, strict=True):
            self.meters.add(output, part)
        self.latch.observe(skipped, merged, batch, self.number)

    def taught(self, batch: Batch, known: Mapping[str, ModelOutput]) -> list[Taught]:
        """The batch and those that the method asks for, with the teacher's outputs."""

        def ask(batch: Batch) -> ModelOutput | None:
            stream = batch.info.stream
            return known[stream] if stream is not None and stream in known else self.teacher(batch)

        teacher = ask(batch)
        further = self.distiller.extra_batches(batch, teacher)
        return [Taught(batch, teacher), *(Taught(other, ask(other)) for other in further)]

    def state(self) -> list[Tensor]:
        """All that a step changes."""
        buffers = [buffer for network in (self.module, *self.teacher.modules()) for buffer in network.buffers()]
        return [
            *self.module.parameters(),
            *buffers,
            *self.updater.tensors(),
            self.meters.total,
            *self.latch.tensors(),
        ]

    def train_mode(self) -> None:
        """Training mode, but for what the parts ask to be left in eval mode."""
        self.forward.train()
        for module in self.parts.still:
            module.eval()

    def forget(self) -> None:
        """Drops what a step that was broken off has left behind."""
        self.updater.forget()
        forget_reduction(self.forward)

    def on_its_stream(self, body: Callable[[], Any]) -> None:
        """Where all steps run: DDP's hooks belong to the stream that it is built on, and a capture must not meet
        another one's."""
        body() if self.recorder is None else self.recorder.run(body)

    @property
    def takes_drafts(self) -> bool:
        """Whether batches may come without their pixels."""
        return self.graph.recorder is not None

    @property
    def _fuse(self) -> Callable[[Pixels], Pixels] | None:
        return None if self.graph.recorder is None else partial(self.graph.recorder.fuse, fallback=self.ran.say)

    def _wrap(self) -> None:
        self.forward = wrap_step(self.module, self.config.runtime, self.world)

    @torch.no_grad()
    def _broken(self, batch: Batch) -> str | None:
        """What the method's answer breaks of the contract, asked without other ranks; the run is over either way."""
        try:
            part = self.distiller.main_batch(batch.finished()).split(self.config.optim.accumulate)[0]
            return self.module.broken(self.config.method, self.progress, *self.taught(part, self._looked_up(batch)))
        except Exception:  # the machine, say: then the first error tells it
            return None

    def _looked_up(self, batch: Batch) -> dict[str, ModelOutput]:
        """What a cached teacher says of `batch`, by view: a look-up on the host, which no graph can hold."""
        if not self.teacher.recorded:
            return {}
        if self.teacher.compares:
            batch = batch.finished()
        main = self.distiller.main_batch(batch).info.stream
        shown = {batch.info.stream: batch} | {name: batch.showing(name) for name in self.distiller.shown_streams}
        found = {str(name): self.teacher(shown[name]) for name in {main, *self.distiller.shown_streams}}
        return {name: output for name, output in sorted(found.items()) if output is not None}

    def _why_plain(self) -> str | None:
        """Why there can be no graph, None where there can."""
        config = self.config
        if self.recorder is None:
            return "several ranks on CPUs exchange gradients outside any graph"
        if not self.distiller.capturable:
            return f"method {config.method} reads values on the host"
        if not (self.updater.skips_on_device or self.updater.scaler.is_enabled()):
            return f"optim.name={config.optim.name} reads on the host whether to skip a step"
        if self.teacher.recorded and config.optim.accumulate > 1:
            return "a recorded teacher is looked up for whole batches, not for the slices of optim.accumulate"
        return None
