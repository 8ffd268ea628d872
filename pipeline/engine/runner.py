"""One optimiser step: teacher, further views, student, losses, gradients over the ranks, update."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.contracts import Batch, Distiller, Mix, ModelOutput
from pipeline.engine.distributed.gather import GlobalRows
from pipeline.engine.distributed.parallel import World, as_graph, forget_reduction, settle_buckets, unreduced, wrap_step
from pipeline.engine.graph.backends import Body, Recorder
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.step import DistillationStep, Seen, StepOutput
from pipeline.engine.update import Updater
from pipeline.views import rank_slice


class StepRunner:
    """Owns the step module, its wrapping and the updater. `parts` as in engine/components.py.

    recorder: on whose stream all steps run, if any: DDP's hooks belong to the stream that it is built on, and a capture
    must not meet another one's.
    """

    def __init__(self, parts: Any, config: TrainConfig, world: World, recorder: Recorder | None = None) -> None:
        self.parts, self.config, self.world = parts, config, world
        self.on_its_stream: Callable[[Body], object] = _at_once if recorder is None else recorder.run
        self.rows = GlobalRows(world, enabled=config.runtime.gather, slices=config.optim.accumulate)
        for module in parts.distiller.modules():
            if isinstance(module, Distiller):
                module.gather_rows = self.rows
        self.module = DistillationStep(parts.student, parts.distiller, parts.autocast, config.optim.label_smoothing)
        optimizer = build_optimizer(self.module, config.optim)
        self.updater = Updater(
            self.module,
            parts.student,
            optimizer,
            config.optim,
            fp16=config.runtime.amp == "fp16",
            predictor=parts.distiller.predictor(),
            rate_on_device=as_graph(config.runtime),
        )
        # Two gradients of one forward: DDP would reduce the first one only, so these are reduced by hand.
        self.step: nn.Module = self.module
        if not self.updater.by_kind:
            self.on_its_stream(self._wrap)
        self.progress = torch.zeros((), device=world.device)
        self.answers: Mapping[str, ModelOutput] = {}

    def _wrap(self) -> None:
        self.step = wrap_step(self.module, self.config.runtime, self.world)

    def forget(self) -> None:
        """Drops what a step that was broken off has left behind."""
        self.updater.forget()
        forget_reduction(self.step)

    def train_mode(self) -> None:
        """Training mode, but for what the parts ask to be left in eval mode."""
        self.step.train()
        for module in self.parts.still:
            module.eval()

    def see(self, batch: Batch) -> list[Seen]:
        """The batch and those that the method asks for, with the teacher's outputs."""
        teacher = self._ask(batch)
        further = self.parts.distiller.extra_batches(batch, teacher)
        return [Seen.of(batch, teacher), *(Seen.of(other, self._ask(other)) for other in further)]

    def _ask(self, batch: Batch) -> ModelOutput | None:
        known = None if batch.stream is None else self.answers.get(batch.stream)
        return self.parts.teacher(batch) if known is None else known

    def looked_up(self, batch: Batch) -> dict[str, ModelOutput]:
        """What a recorded teacher says of `batch`, by stream: a look-up on the host, which no graph can hold."""
        if not self.parts.teacher.recorded:
            return {}
        distiller = self.parts.distiller
        shown = {str(batch.stream): batch} | {name: batch.showing(name) for name in distiller.shown_streams}
        wanted = {str(distiller.main_batch(batch).stream), *distiller.shown_streams}
        return {name: self.parts.teacher(shown[name]) for name in sorted(wanted)}

    def run(self, batch: Batch, rows: int) -> tuple[list[tuple[StepOutput, Batch]], StepOutput, Tensor]:
        """(output of each slice with its batch, all of them as one, 0-d bool: the update was skipped).

        rows: of the global batch. self.progress and the updater's rate are the caller's to set.
        """
        self.rows.rows = rows
        slices = self.parts.distiller.main_batch(batch).split(self.config.optim.accumulate)
        outputs = []
        for number, part in enumerate(slices, 1):
            with unreduced(self.step, last=number == len(slices)):
                output: StepOutput = self.step(self.progress, *self.see(part))
                assert output.task is not None
                self.updater.backward(output.loss * part.share, output.task * part.share)
            outputs.append((output, part))
        if self.updater.by_kind:
            self.updater.reduce(self._mean_over_ranks)
        merged = StepOutput.merged([output for output, _ in outputs])
        return outputs, merged, self.updater.update(merged.loss)

    def _mean_over_ranks(self, gradients: list[Tensor]) -> None:
        if self.world.ranks == 1 or not gradients:
            return
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world.ranks
        pieces = flat.split([g.numel() for g in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def settle(self) -> None:
        """Fixes DDP's buckets with one step that leaves no trace; see `settle_buckets`."""
        size, device = self.config.data.image_size, self.world.device
        self.rows.rows = self.config.data.batch_size
        first, last = rank_slice(self.rows.rows, self.world.rank, self.world.ranks)
        image = torch.zeros(max(1, last - first), 3, size, size, device=device)
        if self.config.runtime.channels_last:
            image = image.to(memory_format=torch.channels_last)
        zeros = torch.zeros(len(image), dtype=torch.int64, device=device)
        streams = dict.fromkeys(self.parts.distiller.streams, image)
        corner = torch.tensor([0, 0, size // 2, size // 2], device=device)
        mixes = dict.fromkeys(streams, Mix(torch.ones((), device=device), zeros, corner))
        batch = Batch(image_BCHW=image, label_B=zeros, index_B=zeros, streams=streams, mixes=mixes)

        def run_once() -> Tensor:
            output: StepOutput = self.step(self.progress, *self.see(self.parts.distiller.main_batch(batch)))
            return output.loss

        self.on_its_stream(lambda: settle_buckets(self.step, run_once))


def _at_once(body: Body) -> None:
    body()


def frozen_parts(network: nn.Module) -> tuple[nn.Module, ...]:
    """Modules of `network` all of whose own parameters are frozen: their BN statistics are not to move either."""
    found = []
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            found.append(module)
    return tuple(found)
