"""What two ranks run: one network of each family under DDP, in float64, each rank on its half of the batch."""

import sys
from pathlib import Path

import torch
from models.families import image, make, sides, smallest
from torch import nn

from pipeline.config import RuntimeConfig
from pipeline.engine.distributed import parallel

ROWS = 4


def gradient_of(network: nn.Module, run: nn.Module, first: int, last: int, side: int) -> torch.Tensor:
    """Gradient of the mean square of the logits of rows first..last, as one vector."""
    pixels = image(ROWS, side)[first:last].double().contiguous(memory_format=torch.channels_last)
    run(pixels, features=False).logits_BK.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def families(out: str) -> None:
    """Largest difference between the reduced gradient and that of one process, relative, by network."""
    sys.setrecursionlimit(10_000)
    torch.set_num_threads(1)
    runtime = RuntimeConfig(device="cpu", bucket_mb=0.1)
    with parallel.start(runtime) as world:
        found = {}
        for name in smallest().values():
            side = min(sides(name))
            network = parallel.prepare_student(make(name).double().eval(), runtime, world)
            alone = gradient_of(network, network, 0, ROWS, side)
            network.zero_grad()
            rows = ROWS // world.ranks
            step = parallel.wrap_step(network, runtime, world).eval()
            got = gradient_of(network, step, world.rank * rows, (world.rank + 1) * rows, side)
            found[name] = float((got - alone).abs().max() / alone.abs().max())
            assert len(got) == sum(p.numel() for p in network.parameters())
        torch.save(found, Path(f"{out}.{world.rank}"))
