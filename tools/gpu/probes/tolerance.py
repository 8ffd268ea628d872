"""What teacher.verify meets: one folded teacher at 64 rows and at 256, in each precision, against what is allowed."""

import torch
from torch import Tensor, nn

from pipeline.config import RuntimeConfig
from pipeline.engine.distributed.parallel import autocast_factory, place
from pipeline.models.build import build
from pipeline.models.folding import fold_norms
from pipeline.teachers.codecs import NOISE, rounding
from tools.gpu.probes.bench import Bench, gap
from tools.gpu.probes.trainings import PAIR

MODES = {
    "float32": RuntimeConfig(tf32="off"),
    "TF32 in convolutions": RuntimeConfig(tf32="auto"),
    "TF32": RuntimeConfig(tf32="on"),
    "bf16": RuntimeConfig(amp="bf16"),
}
PARTS = 4


def run(bench: Bench) -> None:
    bench.settle()
    torch.manual_seed(0)
    network = place(build(PAIR[bench.small][0], num_classes=100), RuntimeConfig(), bench.device)
    rows = 32 if bench.small else 256
    image_BCHW = torch.randn(rows, 3, 32, 32, device=bench.device).to(memory_format=torch.channels_last)
    with torch.no_grad():
        settle_statistics(network, image_BCHW)
        folded = fold_norms(network, image_BCHW[:1])
        for name, runtime in MODES.items():
            world = bench.world(runtime)
            with bench.tried(name), autocast_factory(runtime, bench.device)():
                parts = [logits_of(folded, part_BCHW) for part_BCHW in image_BCHW.split(rows // PARTS)]
                whole_BK, plain_BK = logits_of(folded, image_BCHW), logits_of(network, image_BCHW)
                apart, allowed = gap(torch.cat(parts), whole_BK), NOISE[rounding(runtime.amp, world.tf32)]
                value = f"{apart:.2e} (folded against not: {gap(whole_BK, plain_BK):.2e})"
                what = f"teacher, {rows // PARTS} rows against {rows}, {name}"
                bench.judge(what, value, apart <= allowed, f"allowed {allowed:g}")


def settle_statistics(network: nn.Module, image_BCHW: Tensor) -> None:
    """Batch norms of random weights with the statistics of these images, in eval mode."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    for _ in range(3):
        network(image_BCHW)
    network.eval()


def logits_of(network: nn.Module, image_BCHW: Tensor) -> Tensor:
    """In float32."""
    logits_BK: Tensor = network(image_BCHW).logits_BK
    return logits_BK.float()
