"""What the ranks of tests/engine/test_ranks.py run; each writes what it saw to a file."""

import contextlib
from pathlib import Path

import torch
from loader_configs import loader_config
from mini_sets import colour_set

from pipeline.config import RuntimeConfig
from pipeline.contracts import Batch
from pipeline.distillers.kd import KD
from pipeline.engine.distributed import parallel
from pipeline.engine.forward import DistillationStep, Taught
from pipeline.loaders import LOADERS
from pipeline.models import MODELS
from pipeline.teachers.live import LiveTeacher

ROWS = 23  # uneven on two ranks and on three; the last of the batches of 9 has 5 rows


def batches(world: parallel.World, loader: str) -> list[Batch]:
    """Two epochs of a small set."""
    how = loader_config(
        batch_size=9, image_size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), seed=3, data_seed=4,
        rank=world.rank, ranks=world.ranks, crop="pad", padding=2, flip=True,
    )  # fmt: skip
    made = LOADERS.get(loader)(colour_set(ROWS), how)
    found = []
    for epoch in range(2):
        made.set_epoch(epoch)
        found += list(made)
    return found


def steps(out: str, sync_bn: bool, train_mode: bool, accumulate: int) -> None:
    """Loss and gradient of each batch, from the same weights, in float64; reduced as a training reduces them."""
    torch.set_num_threads(1)
    runtime = RuntimeConfig(device="cpu", sync_bn=sync_bn, bucket_mb=0.05)
    with parallel.start(runtime) as world:
        torch.manual_seed(0)
        student = parallel.prepare_student(MODELS.get("resnet8")(num_classes=10).double(), runtime, world)
        network = MODELS.get("resnet14")(num_classes=10).double()
        teacher = LiveTeacher(lambda: network, needs=KD.needs, autocast=contextlib.nullcontext)
        module = DistillationStep(student, KD(KD.Config()), contextlib.nullcontext)
        step = parallel.wrap_step(module, runtime, world)
        step.train(train_mode)
        progress = torch.zeros(())
        seen = []
        for batch in batches(world, "resident"):
            batch.image_BCHW = batch.image_BCHW.double()
            loss = torch.zeros((), dtype=torch.float64)
            slices = batch.split(accumulate)
            for number, part in enumerate(slices, 1):
                with parallel.unreduced(step, last=number == len(slices)):
                    result = step(progress, Taught(part, teacher(part)))
                    (result.loss * part.info.share).backward()
                loss += result.loss.detach() * part.info.share / world.ranks
            world.sum(loss)
            gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
            step.zero_grad()
            seen.append({"index": batch.index_B, "image": batch.image_BCHW, "loss": loss, "gradient": gradient})
        buffers = {k: v for k, v in module.named_buffers() if "running" in k}
        torch.save({"steps": seen, "buffers": buffers}, Path(f"{out}.{world.rank}"))


def evaluated(out: str) -> None:
    """Evaluation counts and averaged buffers on uneven ranks, and the state before and after."""
    from pipeline.engine.evaluate import Evaluation, inference_state

    runtime = RuntimeConfig(device="cpu")
    with parallel.start(runtime) as world:
        torch.manual_seed(world.rank)  # other BN statistics on each rank
        network = MODELS.get("resnet8")(num_classes=10)
        for p in network.parameters():
            torch.nn.init.normal_(p, 0, 0.1, generator=torch.Generator().manual_seed(p.numel()))
        network.train()
        network(torch.randn(8, 3, 16, 16))
        before = {k: v.clone() for k, v in network.state_dict().items()}
        how = loader_config(
            batch_size=4, image_size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), train=False,
            rank=world.rank, ranks=world.ranks,
        )  # fmt: skip
        loader = LOADERS.get("resident")(colour_set(ROWS), how)
        with inference_state(network, None, world):
            inside = {k: v.clone() for k, v in network.state_dict().items()}
            score = Evaluation(network, lambda o: o.logits_BK, loader, world, contextlib.nullcontext)()
        after = network.state_dict()
        same = all(torch.equal(before[k], after[k]) for k in before) and network.training
        torch.save(
            {"score": vars(score), "before": before, "inside": inside, "same": same}, Path(f"{out}.{world.rank}")
        )
