"""Two trainings side by side: one takes plain steps, the other replays a recording of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.builders.names import train_config
from pipeline.builders.run import build
from pipeline.contracts import Batch
from pipeline.engine.distributed import parallel
from pipeline.engine.graph.backends import Recorder
from pipeline.engine.teacher_pass import teach
from pipeline.engine.train_step import StepAt, TrainStep

CPU = torch.device("cpu")


class Side:
    """One training out of `words`; double: in float64; world: default the one process on `device`."""

    def __init__(
        self,
        words: list[str],
        recorder: Recorder | None,
        *,
        double: bool = False,
        device: torch.device = CPU,
        world: parallel.World | None = None,
    ) -> None:
        config = train_config([*words, f"runtime.device={device.type}", "runtime.compile=graph"])
        world = world or parallel.World(rank=0, ranks=1, device=device, side=None)
        self.parts, _ = build(config, world)
        self.double = double
        if self.parts.distiller.teacher_pass:
            teach(self.parts.distiller, self.parts.teacher, self.parts.train, world)
        if double:
            self.parts.student.double()
            self.parts.distiller.double()
            for module in self.parts.teacher.modules():
                module.double()
        self.notes: list[str] = []
        self.train_step = TrainStep(self.parts, config, world, recorder, self.notes.append)
        self.meters, self.latch = self.train_step.meters, self.train_step.latch
        self.train_step.train_mode()

    def batches_of(self, epoch: int) -> list[Batch]:
        self.parts.train.set_epoch(epoch)
        found = list(self.parts.train)
        if not self.double:
            return found
        return [
            replace(b, image_BCHW=b.image_BCHW.double(), streams={n: s.double() for n, s in b.streams.items()})
            for b in found
        ]

    def batches(self, steps: int) -> Iterator[Batch]:
        taken = 0
        for epoch in range(steps):
            for batch in self.batches_of(epoch):
                if taken == steps:
                    return
                taken += 1
                yield batch

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a step changes."""
        optimizer = self.train_step.updater.optimizer
        held = {f"{i} {k}": v for i, s in enumerate(optimizer.state.values()) for k, v in s.items()}
        ema = self.train_step.updater.ema
        averages = {} if ema is None else {f"ema {k}": v for k, v in ema.state_dict().items()}
        sums = {"meters": self.meters.total, "latch": self.latch.step, "terms": self.latch.terms}
        return {**self.train_step.module.state_dict(), **held, **averages, **sums}

    def step(self, number: int, batch: Batch, rate: float = 0.05) -> None:
        torch.manual_seed(number)
        rate *= 1 - number / 100
        progress = number / len(self.parts.train)
        self.train_step.run(batch, StepAt(number=number, progress=progress, rate=rate, rows=len(batch.label_B)))


@torch.no_grad()
def put(state: dict[str, Tensor], into: dict[str, Tensor]) -> None:
    """The values of one side into the other's tensors, where they lie."""
    for name, tensor in into.items():
        if tensor.shape == state[name].shape:
            tensor.copy_(state[name])


def largest_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of any tensor, over the largest value in that tensor (1 where that is smaller)."""
    assert a.keys() == b.keys()
    gaps = [(a[k].double() - b[k].double()).abs().max() / a[k].double().abs().max().clamp(min=1) for k in a]
    return float(torch.stack([g for g in gaps if g.numel()]).nan_to_num(nan=float("inf")).max())


def from_the_same_state(
    words: list[str], recorder: Recorder, steps: int, device: torch.device = CPU
) -> tuple[list[float], Side]:
    """Gap after each step, both sides having begun it in the same state; the recording side."""
    plain, recorded = Side(words, None, device=device), Side(words, recorder, device=device)
    gaps = []
    for number, batch in enumerate(plain.batches(steps)):
        plain.step(number, batch)
        recorded.step(number, batch)
        gaps.append(largest_gap(plain.state(), recorded.state()))
        put(plain.state(), recorded.state())
    return gaps, recorded


def trajectories(words: list[str], recorder: Recorder, steps: int) -> float:
    """Gap after `steps` steps in float64, each side by itself.

    At a low rate: at .05 some methods diverge on these few images, and a last bit becomes anything.
    """
    plain, recorded = Side(words, None, double=True), Side(words, recorder, double=True)
    for side in (plain, recorded):
        for number, batch in enumerate(side.batches(steps)):
            side.step(number, batch, rate=5e-4)
    return largest_gap(plain.state(), recorded.state())


def words_for(data: Path, method: str, *more: str) -> list[str]:
    """A small pair on small batches; 14 images: the second batch of an epoch is a short one."""
    pair = ["teacher.model=resnet14", "student.model=resnet8"]
    start = ["dataset=cifar100", f"data.root={data}", *pair, "teacher.checkpoint=none", "data.batch_size=12"]
    return [*start, "optim.schedule=constant", f"method={method}", *more]
