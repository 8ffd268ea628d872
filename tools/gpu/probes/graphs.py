"""Captured steps against plain ones from the same state, with what a step may hold."""

import tempfile
from pathlib import Path

import mini_cifar
from recorded_steps import Side, largest_gap, put, words_for

from pipeline.config import RuntimeConfig
from pipeline.engine.distributed.parallel import recorder_for
from pipeline.engine.graph.backends import Recorder, Tracer
from tools.gpu.probes.bench import Bench

STEPS, RATE = 16, 0.01
MOST = 1e-3  # of the largest value in a tensor
VARIANTS = {
    "kd": [],
    "bf16": ["runtime.amp=bf16"],
    "fp16": ["runtime.amp=fp16"],
    "fp16, clipped": ["runtime.amp=fp16", "optim.clip_norm=1"],
    # eps: of gradients near zero AdamW keeps little but the sign, and sums of cuDNN's differ in their last bits.
    "adamw": ["optim.name=adamw", "optim.lr=0.001", "optim.eps=1e-4"],
    "averaged weights, clipped": ["optim.ema_decay=0.9", "optim.clip_norm=1"],
    "accumulate=2": ["optim.accumulate=2"],
    "dot": ["optim.name=dot"],
    "teacher.stream": ["teacher.stream=true"],
    "plain memory layout": ["runtime.channels_last=false"],
}
QUICK = ("kd",)  # without a GPU: tests/engine has the rest


def run(bench: Bench) -> None:
    images = 12 if bench.small else 14  # one shape of a batch, or two
    data = mini_cifar.write(Path(tempfile.mkdtemp(dir=bench.scratch)), train=images)
    for name in QUICK if bench.small else VARIANTS:
        with bench.tried(name):
            compare(bench, name, words_for(data, "kd", *VARIANTS[name]))


def recorder_of(bench: Bench) -> Recorder:
    """CUDA's; elsewhere a trace that is replayed one operation after the other."""
    if bench.small:
        return Tracer(None)
    runtime = RuntimeConfig(compile="graph")
    made = recorder_for(runtime, bench.world(runtime))
    assert made is not None
    return made


def compare(bench: Bench, name: str, words: list[str]) -> None:
    """Both sides begin each step in the same state."""
    plain = Side(words, None, device=bench.device)
    captured = Side(words, recorder_of(bench), device=bench.device)
    worst = 0.0
    for number, batch in enumerate(plain.batches(4 if bench.small else STEPS)):
        plain.step(number, batch, rate=RATE)
        captured.step(number, batch, rate=RATE)
        worst = max(worst, largest_gap(plain.state(), captured.state()))
        put(plain.state(), captured.state())
    graphs = captured.train_step.graph.graphs
    good = worst < MOST and graphs == (1 if bench.small else 2) and not captured.notes
    bench.judge(f"captured against plain: {name}", f"{worst:.1e}, {graphs} graphs {captured.notes[:1] or ''}", good)
