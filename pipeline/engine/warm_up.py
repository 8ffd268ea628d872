"""What is done before the first step of several ranks, so that all later ones add up in one order."""

import torch
from torch import Tensor

from pipeline.contracts import Batch, Mix
from pipeline.engine.distributed.parallel import settle_buckets
from pipeline.engine.forward import StepOutput
from pipeline.engine.train_step import TrainStep
from pipeline.views import rank_slice


def warm_up(step: TrainStep) -> None:
    """Fixes DDP's buckets with steps that leave no trace; see `settle_buckets`."""
    batch = step.distiller.main_batch(_blank(step))

    def run_once() -> Tensor:
        output: StepOutput = step.forward(step.progress, *step.taught(batch, {}))
        return output.loss

    step.on_its_stream(lambda: settle_buckets(step.forward, run_once))


def _blank(step: TrainStep) -> Batch:
    """This rank's part of a batch of nobody's images."""
    data, world = step.config.data, step.world
    step.rows.rows = data.batch_size
    first, last = rank_slice(data.batch_size, world.rank, world.ranks)
    image_BCHW = torch.zeros(max(1, last - first), 3, data.image_size, data.image_size, device=world.device)
    if step.config.runtime.channels_last:
        image_BCHW = image_BCHW.to(memory_format=torch.channels_last)
    zeros_B = torch.zeros(len(image_BCHW), dtype=torch.int64, device=world.device)
    streams = dict.fromkeys(step.distiller.streams, image_BCHW)
    corner = torch.tensor([0, 0, data.image_size // 2, data.image_size // 2], device=world.device)
    mixes = dict.fromkeys(streams, Mix(torch.ones((), device=world.device), zeros_B, corner))
    return Batch(image_BCHW=image_BCHW, label_B=zeros_B, index_B=zeros_B, streams=streams, mixes=mixes)
