"""The bare loop: the same networks and optimiser on batches that lie ready, and nothing else."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import Batch, ModelOutput
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import World, prepare_frozen, wrap_step
from pipeline.engine.optimizers import build_optimizer
from pipeline.measure.keys import BenchmarkConfig

TEMPERATURE = 4


def plain_loss(logits_BK: Tensor, label_B: Tensor, teacher_BK: Tensor | None) -> Tensor:
    """Cross-entropy; beside a teacher also KL at T = 4, as the plainest code writes kd."""
    loss = F.cross_entropy(logits_BK, label_B)
    if teacher_BK is None:
        return loss
    log_p, log_t = F.log_softmax(logits_BK / TEMPERATURE, 1), F.log_softmax(teacher_BK / TEMPERATURE, 1)
    return loss + TEMPERATURE**2 * F.kl_div(log_p, log_t, reduction="batchmean", log_target=True)


def plain_teacher(config: BenchmarkConfig, world: World, parts: Parts) -> Callable[[Batch], ModelOutput | None]:
    """The teacher as plain code runs it; a recorded one as it is."""
    source = parts.teacher
    if source.recorded or source.network is None:
        return source
    network = prepare_frozen(copy.deepcopy(source.network), config.runtime, world.device)
    prepare: Callable[[Tensor], Tensor] = source.prepare  # type: ignore[attr-defined]

    def ask(batch: Batch) -> ModelOutput:
        with torch.no_grad(), parts.autocast():
            output: ModelOutput = network(prepare(batch.image_BCHW), features=False)
        return output.float()

    return ask


def bare_step(
    config: BenchmarkConfig, world: World, parts: Parts, batches: list[Batch], taught: bool
) -> Callable[[int], None]:
    """A copy of the student on batches that lie ready: teacher forward (if taught), forward, backward, fused update.

    Autocast and compiled as the run is, and nothing else: no method, no meters, no schedule, no folded batch norms.
    """
    ask = plain_teacher(config, world, parts) if taught else None
    student = copy.deepcopy(parts.student)
    optimizer = build_optimizer(student, config.optim)
    student = wrap_step(student, config.runtime, world).train()

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        teacher = None if ask is None else ask(batch)
        with parts.autocast():
            logits_BK = student(batch.image_BCHW).logits_BK.float()
        plain_loss(logits_BK, batch.label_B, None if teacher is None else teacher.logits_BK).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
