"""graph_fused: does the whole step compile, can it be captured, and does it agree with the plain one?"""

import time

import torch

from pipeline.engine.graph.backends import COMPILED, REPLAYED
from pipeline.measure.loops import advance
from tools.gpu.probes.bench import Bench
from tools.gpu.probes.trainings import noise_cifar, trainer

VARIANTS = {"sgd": [], "bf16": ["runtime.amp=bf16"], "adamw": ["optim.name=adamw", "optim.lr=0.001"]}
STEPS = 12  # three of the compiled step, then its capture and replays
MOST = 2e-2  # of the loss


def run(bench: Bench) -> None:
    for name in list(VARIANTS)[: 1 if bench.small else None]:
        with bench.tried(f"graph_fused: {name}"), bench.quick_traces():
            compare(bench, name, VARIANTS[name])


def compare(bench: Bench, name: str, words: list[str]) -> None:
    """Losses of the first steps under both modes."""
    torch._dynamo.reset()
    root = noise_cifar(bench, 96 if bench.small else 640)
    data = ["dataset=cifar100", f"data.root={root}", f"data.batch_size={32 if bench.small else 64}"]
    pair = ["teacher.model=resnet14", "student.model=resnet8", "teacher.checkpoint=none", "method=kd"]
    networks = ["model=resnet8", "method=vanilla"] if bench.small else pair
    began, losses, ran = time.perf_counter(), [], None
    for mode in ("off", "graph_fused"):
        torch.manual_seed(0)
        ours = trainer(bench, [*data, *networks, *words, "optim.lr=0.01", f"runtime.compile={mode}"])
        advance(ours, 3 if bench.small else STEPS)
        losses.append(ours.meters.read(ours.world)["train_loss"])
        ran = ours.ran.graph
    seconds = time.perf_counter() - began
    good = abs(losses[0] - losses[1]) < MOST * losses[0] and ran == (COMPILED if bench.small else REPLAYED)
    value = f"losses {losses[0]:.5f} {losses[1]:.5f}, {ran}, {seconds:.0f} s"
    bench.judge(f"graph_fused: {name}", value, good)
