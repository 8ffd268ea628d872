"""What the field runs: the training loop of the research repositories, written down plainly as a yardstick.

torchvision's Dataset and Pillow transforms in worker processes, NCHW tensors, eager float32, the optimiser as torch
makes it by default, and figures read on the host at every step (mdistiller's engine/trainer.py does all of these).
"""

from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.builders.run import build
from pipeline.contracts import Batch
from pipeline.datasets.image_set import ImageSet
from pipeline.engine.distributed.parallel import World
from pipeline.loaders.worker_deaths import batches_of
from pipeline.measure.bare import plain_loss
from pipeline.measure.device import wait_for
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.loops import WARM_UP, fitting, steps_round
from pipeline.measure.rounds import Measure, Round
from pipeline.measure.yardsticks import guarded, samples_of

PLAIN = {"amp": "off", "compile": "off", "channels_last": False}
TOP = (1, 5)
Batches = Generator[list[Tensor]]


def research_loop(config: BenchmarkConfig, world: World, images: ImageSet) -> Measure:
    """Its images/s, behind `data.workers` worker processes. Raises InputError where torchvision cannot read the set.

    The workers are started for each round and ended after it: what they prepare must not run while others are measured.
    """
    live = config.teacher.model_copy(update={"source": "live"})
    plain = config.model_copy(update={"runtime": config.runtime.model_copy(update=PLAIN), "teacher": live})
    name, samples = samples_of(images, config.data)
    rows = min(config.data.batch_size, len(samples))
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_size=rows,
        shuffle=True,
        drop_last=True,
        num_workers=config.data.workers,
        pin_memory=world.device.type == "cuda",
    )
    step = research_step(plain, world)
    counts: list[int] = []

    def run(batches: Batches, steps: int) -> float:
        return sum(step(*next(batches)) for _ in range(steps))

    def measure() -> Round:
        batches = endless(loader)
        guarded(name, lambda: next(batches))
        run(batches, WARM_UP)  # until the workers are ahead, as they are all the time
        if not counts:
            one = steps_round(world.device, lambda steps: run(batches, steps), WARM_UP, rows)
            counts.append(fitting(config, float(one["ms_per_step"] or 0) / 1000))
        found = steps_round(world.device, lambda steps: run(batches, steps), counts[0], rows)
        batches.close()
        wait_for(world.device)()
        return found

    return measure


def endless(loader: DataLoader[Any]) -> Batches:
    """Epoch after epoch; closed, it ends the workers."""
    while True:
        yield from batches_of(loader)


def research_step(config: BenchmarkConfig, world: World) -> Callable[[Tensor, Tensor], float]:
    """step(image_BCHW, label_B) -> loss, on the host: teacher, student, kd, update, accuracy."""
    parts = build(config, world)[0]
    student, teacher, device = parts.student.train(), parts.teacher, world.device
    optim = config.optim
    optimizer = torch.optim.SGD(
        student.parameters(), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
    )

    def step(image_BCHW: Tensor, label_B: Tensor) -> float:
        image_BCHW, label_B = image_BCHW.to(device, non_blocking=True), label_B.to(device, non_blocking=True)
        optimizer.zero_grad()
        logits_BK = student(image_BCHW).logits_BK
        taught = teacher(Batch(image_BCHW=image_BCHW, label_B=label_B, index_B=label_B))
        loss = plain_loss(logits_BK, label_B, None if taught is None else taught.logits_BK)
        loss.backward()
        optimizer.step()
        best_BT = logits_BK.topk(min(max(TOP), logits_BK.shape[1]), 1).indices
        right_BT = best_BT == label_B[:, None]
        for top in TOP:
            right_BT[:, :top].float().sum().item()
        return float(loss.detach().cpu().numpy().mean())

    return step
