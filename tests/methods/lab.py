"""One step of any method on any pair, as the engine would do it, without loaders and run folders."""

import contextlib
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.builders.method import build_distiller, in_form, method_kinds
from pipeline.builders.names import train_config
from pipeline.builders.networks import shapes_of
from pipeline.config import TrainConfig
from pipeline.contracts import Batch, Distiller, Mix, ModelOutput, Setting
from pipeline.distillers import DISTILLERS
from pipeline.engine.forward import DistillationStep, StepOutput, Taught
from pipeline.models.build import build

ROWS, SAMPLES = 4, 24
METHODS = [name for name in DISTILLERS.names() if DISTILLERS.get(name).stands_alone]


@cache
def config_of(method: str, pair: str, *words: str, dataset: str = "cifar100") -> TrainConfig:
    """The composed configuration of a run; small banks and batches."""
    small = {"crd": ["method_args.K=8"]}.get(method, [])
    return train_config(
        [f"dataset={dataset}", f"pair={pair}", f"method={method}", f"data.batch_size={ROWS}", *small, *words]
    )


def made(name: str, seed: int, classes: int, **options: Any) -> nn.Module:
    """A network with seeded weights."""
    torch.manual_seed(seed)
    return build(name, num_classes=classes, **options)


def images(rows: int, side: int, seed: int = 1) -> Tensor:
    """Seeded noise."""
    return torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Bench:
    """Student, teacher, method and a batch of one run."""

    def __init__(self, config: TrainConfig, *, side: int = 32, classes: int = 12, double: bool = False) -> None:
        self.config, self.side, self.classes = config, side, classes
        kinds = method_kinds(config)
        student = self._network("student", 0)
        self.student = in_form(student, kinds, config.variant, side)
        teacher = in_form(self._network("teacher", 7), kinds, config.variant, side)
        self.teacher = teacher.eval().requires_grad_(False)
        if double:
            self.student, self.teacher = self.student.double(), self.teacher.double()
        self.dtype = torch.float64 if double else torch.float32
        self.label_N = torch.arange(SAMPLES) % classes
        setting = Setting(
            student=shapes_of(self.student, side),
            teacher=shapes_of(self.teacher, side),
            classifier=self.teacher.classifier,
            norms=tuple(self.teacher.bn_before_relu()),
            label_N=self.label_N,
            batch_size=ROWS,
        )
        self.setting = setting
        self.method: Distiller = build_distiller(config, setting).to(self.dtype)
        self.step = DistillationStep(self.student, self.method, contextlib.nullcontext)
        if self.method.teacher_pass:
            logits_NK = torch.randn(SAMPLES, classes, generator=torch.Generator().manual_seed(3)).to(self.dtype) * 3
            self.method.learn(self.method.digest(logits_NK), self.label_N)

    def _network(self, which: str, seed: int) -> nn.Module:
        section = getattr(self.config, which)
        block = {"block": section.block} if getattr(section, "block", None) else {}
        return made(str(section.model), seed, self.classes, **block)

    def batch(self, first: int = 0, last: int = ROWS, seed: int = 1) -> Batch:
        """Rows first..last of a seeded batch with every stream that the method wants."""
        whole = images(ROWS, self.side, seed).to(self.dtype)
        index = torch.arange(ROWS)
        partner = whole.flip(0)
        box = torch.tensor([0, 0, self.side // 2, self.side // 2])
        weight = torch.tensor(0.75, dtype=self.dtype)
        mix = Mix(weight, self.label_N[index.flip(0)][first:last], box)
        names = list(self.method.streams)
        return Batch(
            image_BCHW=whole[first:last],
            label_B=self.label_N[index][first:last],
            index_B=index[first:last],
            streams=dict.fromkeys(names, (0.75 * whole + 0.25 * partner)[first:last]),
            mixes=dict.fromkeys(names, mix),
        )

    def look(self, batch: Batch) -> ModelOutput:
        """The teacher's output."""
        with torch.no_grad():
            output: ModelOutput = self.teacher(batch.image_BCHW, features=True)
        return output

    def see(self, batch: Batch) -> list[Taught]:
        """The batch and those that the method asks for, with the teacher's outputs."""
        batch = self.method.main_batch(batch)
        teacher = self.look(batch)
        further = self.method.extra_batches(batch, teacher)
        return [Taught(batch, teacher), *(Taught(other, self.look(other)) for other in further)]

    def run(self, batch: Batch | None = None, progress: float = 1.5) -> StepOutput:
        """Forward of one step."""
        output: StepOutput = self.step(torch.tensor(progress), *self.see(batch or self.batch()))
        return output
