"""What teacher.verify meets: one folded teacher at 64 rows and at 256, in each precision, against what is allowed."""

import torch
from torch import Tensor, nn

from pipeline.config import RuntimeConfig
from pipeline.engine.parallel import place
from pipeline.models.build import build
from pipeline.models.folding import fold_norms
from pipeline.teachers.codecs import NOISE
from tools.gpu.probes.bench import Bench, allow_tf32, gap
from tools.gpu.probes.trainings import PAIR

# (TF32, autocast, key of NOISE)
MODES = {"float32": (False, False, "off"), "TF32": (True, False, "tf32"), "bf16": (True, True, "bf16")}
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
        for name, (tf32, amp, kind) in MODES.items():
            allow_tf32(tf32)
            with bench.tried(name), torch.autocast(bench.device.type, dtype=torch.bfloat16, enabled=amp):
                parts = [logits_of(folded, part_BCHW) for part_BCHW in image_BCHW.split(rows // PARTS)]
                whole_BK, plain_BK = logits_of(folded, image_BCHW), logits_of(network, image_BCHW)
                apart, allowed = gap(torch.cat(parts), whole_BK), NOISE.get(kind, 5e-3)
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
