"""The bare loop: the same networks and optimiser on batches that lie ready, and nothing else."""

import copy
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import Batch
from pipeline.engine.loop import Parts
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.parallel import World, wrap_step
from pipeline.measure.keys import BenchmarkConfig

TEMPERATURE = 4


def plain_loss(logits_BK: Tensor, label_B: Tensor, teacher_BK: Tensor | None) -> Tensor:
    """Cross-entropy; beside a teacher also KL at T = 4, as the plainest code writes kd."""
    loss = F.cross_entropy(logits_BK, label_B)
    if teacher_BK is None:
        return loss
    log_p, log_t = F.log_softmax(logits_BK / TEMPERATURE, 1), F.log_softmax(teacher_BK / TEMPERATURE, 1)
    return loss + TEMPERATURE**2 * F.kl_div(log_p, log_t, reduction="batchmean", log_target=True)


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
        plain_loss(logits_BK, batch.label_B, None if teacher is None else teacher.logits_BK).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
