"""Steps under DDP, captured, in a process group of one rank: buckets, hooks and streams are those of many ranks."""

import contextlib
import tempfile
from pathlib import Path

import mini_cifar
import torch
import torch.distributed as dist
from recorded_steps import Side, largest_gap, put, words_for
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import RuntimeConfig
from pipeline.engine.distributed.parallel import World, recorder_for
from pipeline.engine.graph.backends import CudaRecorder
from tools.gpu.probes.bench import Bench

STEPS = 32  # of two shapes in turn; torch asks for 11 of each before a capture
REPLAYS = 5
MOST = 1e-3


def run(bench: Bench) -> None:
    kind = "gloo" if bench.small else "nccl"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(kind, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            with bench.tried("our step under DDP"):
                whole_step(bench)
            if not bench.small:
                with bench.tried("bare DDP"):
                    bare(bench, default_stream=False)
                    bench.judge("bare DDP built on the capturing stream", "captured and replayed", True)
                default_stream_too(bench)
        finally:
            dist.destroy_process_group()


def whole_step(bench: Bench) -> None:
    """A plain and a captured side, each told that it is one of two ranks, which only its group knows better."""
    data = mini_cifar.write(Path(tempfile.mkdtemp(dir=bench.scratch)), train=14)
    world = World(rank=0, ranks=2, device=bench.device, side=None)
    words = words_for(data, "kd")
    plain = Side(words, None, device=bench.device, world=world)
    captured = Side(words, recorder_for(RuntimeConfig(compile="graph"), world), device=bench.device, world=world)
    wrapped = [isinstance(side.train_step.forward, DistributedDataParallel) for side in (plain, captured)]
    worst = 0.0
    for number, batch in enumerate(plain.batches(4 if bench.small else STEPS)):
        plain.step(number, batch, rate=0.01)
        captured.step(number, batch, rate=0.01)
        worst = max(worst, largest_gap(plain.state(), captured.state()))
        put(plain.state(), captured.state())
    graphs = captured.train_step.graph.graphs
    good = all(wrapped) and worst < MOST and (bench.small or (graphs == 2 and not captured.notes))
    bench.judge("our step under DDP, captured against plain", f"{worst:.1e}, {graphs} graphs {captured.notes}", good)


def default_stream_too(bench: Bench) -> None:
    """Whether it could be built there, which the project does not. Last: a capture that failed can spoil the next."""
    what = "bare DDP built on the default stream"
    try:
        bare(bench, default_stream=True)
        bench.say(what, "captured and replayed", "for information")
    except RuntimeError as error:
        bench.say(what, str(error).splitlines()[0][:120], "for information: cannot be captured")


def bare(bench: Bench, *, default_stream: bool) -> None:
    """Where DDP is built decides which stream its gradients belong to."""
    recorder = CudaRecorder(bench.device, 2, lambda make: make)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5)).to(bench.device)
    with contextlib.nullcontext() if default_stream else torch.cuda.stream(recorder.stream):
        wrapped = DistributedDataParallel(network, gradient_as_bucket_view=True)
    torch.cuda.synchronize()
    image_BCHW = torch.randn(4, 3, 8, 8, device=bench.device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, fused=True)

    def body() -> None:
        wrapped(image_BCHW).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(recorder.warm_up):
        recorder.run(body)
    nothing: list[Tensor] = []
    replay = recorder.record(body, lambda: nothing)
    for _ in range(REPLAYS):
        replay()
    torch.cuda.synchronize()
