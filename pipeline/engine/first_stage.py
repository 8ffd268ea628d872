"""A first stage before the training proper (AB, FT, FSP, FitNets): the same loop with its own epochs and rate."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.contracts import Batch, Distiller, ModelOutput, View
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import World
from pipeline.engine.reporting.reporter import Reporter
from pipeline.engine.trainer import Trainer
from pipeline.run_folder.folder import RunDir

FOLDER = "first_stage"


class FirstStageMethod(Distiller):
    """`method` in its first stage, as a method of its own."""

    is_stage = True

    def __init__(self, method: Distiller) -> None:
        super().__init__(method.config)
        self.method = method
        self.needs = method.needs
        self.student_features = method.student_features

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        return self.method.first_stage_terms(student, teacher, batch)


@contextmanager
def trainable(student: nn.Module, stages: Sequence[nn.Module], method: Distiller) -> Iterator[None]:
    """Only what the first stage trains has gradients inside; everything is put back afterwards."""
    everything = [*student.parameters(), *method.parameters()]
    before = [p.requires_grad for p in everything]
    wanted = {id(p) for module in method.first_stage_modules() for p in module.parameters()}
    if "stages" in method.first_stage_trains:
        wanted |= {id(p) for stage in stages[: method.first_stage_depth] for p in stage.parameters()}
    for p in everything:
        p.requires_grad_(id(p) in wanted)
    try:
        yield
    finally:
        for p, was in zip(everything, before, strict=True):
            p.requires_grad_(was)
            p.grad = None


def frozen_parts(network: nn.Module) -> tuple[nn.Module, ...]:
    """Modules of `network` all of whose own parameters are frozen: their BN statistics are not to move either."""
    found = []
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            found.append(module)
    return tuple(found)


def stage_config(config: TrainConfig, method: Distiller) -> TrainConfig:
    """The run's configuration with the first stage's epochs and constant rate; evaluated at its end only."""
    first = method.first_stage
    assert first is not None
    optim = config.optim.model_copy(
        update={"epochs": first.epochs, "lr": first.lr, "schedule": "constant", "warmup_epochs": 0.0, "ema_decay": 0.0}
    )
    run = config.run.model_copy(update={"eval_every": first.epochs, "limit_steps": None, "keep_every": 0})
    return config.model_copy(update={"optim": optim, "run": run})


def run_first_stage(parts: Parts, config: TrainConfig, world: World, run: RunDir, reporter: Reporter) -> None:
    """Trains the first stage in the folder first_stage/ of the run, from wherever it stands.

    Nothing is done once the run itself has a checkpoint that can be read: that holds what came out of it.
    """
    if parts.distiller.first_stage is None or world.on_leader(lambda: run.checkpoints.load_last()[0] is not None):
        return
    folder = RunDir(run.folder / FOLDER)
    world.on_leader(lambda: folder.checkpoints.folder.mkdir(parents=True, exist_ok=True))
    reporter.note(f"first stage: {parts.distiller.first_stage.epochs} epochs, lr {parts.distiller.first_stage.lr:g}")
    student = parts.student
    stages: list[nn.Module] = student.stages()  # type: ignore[operator]
    with trainable(student, stages, parts.distiller):
        method = FirstStageMethod(parts.distiller)
        inside = replace(
            parts, distiller=method, description=None, still=(*frozen_parts(student), *frozen_parts(parts.distiller))
        )
        trainer = Trainer(inside, stage_config(config, parts.distiller), world, folder, reporter)
        trainer.fit()
        del trainer
        gc.collect()  # DDP's hooks sit on the parameters until it is gone
    parts.distiller.train()
