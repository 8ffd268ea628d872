"""ResNet-50 on 224 pixels in bf16, on batches that lie on the device, under each mode of runtime.compile."""

import time

import torch

from pipeline.contracts.batch import Batch
from pipeline.measure.device import timed
from pipeline.measure.loops import advance, built, ready_trainer
from tools.gpu.probes.bench import Bench
from tools.gpu.probes.trainings import configured, folder_of

MODES = ("off", "graph", "default", "max")
READY = 4
WANTED = 4000  # images/s


def run(bench: Bench) -> None:
    for mode in MODES[:1] if bench.small else MODES:
        with bench.tried(f"ResNet-50, {mode}"):
            measure(bench, mode)
        if not bench.small:
            torch.cuda.empty_cache()


def measure(bench: Bench, mode: str) -> None:
    """A line of images/s."""
    bench.settle()
    rows, side, warm_up, steps = (2, 32, 1, 1) if bench.small else (256, 224, 8, 40)
    model = "resnet18" if bench.small else "resnet50"
    network = ["dataset=synthetic", "method=vanilla", "networks=imagenet", f"model={model}"]
    how = [f"data.batch_size={rows}", "runtime.amp=bf16", f"runtime.compile={mode}", "run.log_every=1000"]
    config = configured(bench, [*network, *how])
    world = bench.world(config.runtime)
    parts = built(config, world)
    batches = [ready(bench, rows, side) for _ in range(READY)]
    began = time.perf_counter()
    ours = ready_trainer(config, world, parts, batches, folder_of(bench))
    advance(ours, warm_up)
    made = time.perf_counter() - began
    spent = timed(bench.device, lambda: advance(ours, steps))
    speed = rows * steps / spent.seconds
    value = f"{speed:,.0f} images/s, {(spent.peak_bytes or 0) / 2**30:.1f} GiB, start {made:.0f} s"
    bench.say(f"ResNet-50, {side} px, batch {rows}, bf16, {mode}", value, f"wanted {WANTED:,}")


def ready(bench: Bench, rows: int, side: int) -> Batch:
    """A batch of noise."""
    image_BCHW = torch.randn(rows, 3, side, side, device=bench.device).to(memory_format=torch.channels_last)
    index_B = torch.arange(rows, device=bench.device)
    return Batch(image_BCHW=image_BCHW, label_B=index_B % 10, index_B=index_B)
