"""What two ranks run: two steps of each method in float64, BN in eval, each rank on its rows of the same batches."""

from pathlib import Path

import torch
from methods.lab import METHODS, ROWS, Bench, config_of
from torch import Tensor, nn

from pipeline.config import RuntimeConfig
from pipeline.contracts import Distiller
from pipeline.engine.distributed import parallel
from pipeline.engine.distributed.gather import GlobalRows
from pipeline.engine.distributed.parallel import World
from pipeline.views import rank_slice

PAIR = "resnet20-resnet8"
SAME = {"heda": ("method_args.augment=mixup",)}  # cutmix without a box of its own


def steps(method: str, world: World, runtime: RuntimeConfig) -> dict[str, Tensor]:
    """Reduced gradients and losses of two steps, and the buffers after them."""
    bench = Bench(config_of(method, PAIR, *SAME.get(method, ())), side=16, double=True)
    rows = GlobalRows(world)
    rows.rows = ROWS
    for module in bench.method.modules():
        if isinstance(module, Distiller):
            module.gather_rows = rows
    step = parallel.wrap_step(bench.step, runtime, world)
    step.train()
    for module in step.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # its statistics are per rank
    first, last = rank_slice(ROWS, world.rank, world.ranks)
    share = world.ranks * (last - first) / ROWS
    found: dict[str, Tensor] = {}
    for number in range(2):
        output = step(torch.tensor(1.5 + number), *bench.see(bench.batch(first, last, seed=number)))
        (output.loss * share).backward()
        found[f"loss{number}"] = world.sum(output.loss.detach() * share / world.ranks)
        gradients = [p.grad.flatten() for p in bench.step.parameters() if p.grad is not None]
        found[f"gradient{number}"] = torch.cat(gradients)
        step.zero_grad()
    buffers = [b.double().flatten() for name, b in bench.method.named_buffers() if "running" not in name]
    return found | {"buffers": torch.cat(buffers) if buffers else torch.zeros(1)}


def all_methods(out: str) -> None:
    """One file of all methods per rank."""
    torch.set_num_threads(1)
    runtime = RuntimeConfig(device="cpu", bucket_mb=0.05)
    with parallel.start(runtime) as world:
        torch.save(
            {name: steps(name, world, runtime) for name in METHODS if name != "vanilla"}, Path(f"{out}.{world.rank}")
        )
