"""Steps of the protocol (kd, resnet32x4 -> resnet8x4, CIFAR-100's size, batch 64) under the clock, live and cached."""

import time

import torch
from torch.autograd import DeviceType

from pipeline.engine.trainer import Trainer
from pipeline.measure.device import timed
from pipeline.measure.loops import advance
from tools.gpu.probes.bench import Bench
from tools.gpu.probes.cache import from_cache, write
from tools.gpu.probes.trainings import alone_words, pair_words, trainer

ROWS, ROWS_SMALL = 50_000, 64
STEPS, WARM_UP = 800, 30  # captures lie in the warm-up
PROTOCOL_STEPS, EPOCHS = 187_680, 240
PROFILED = 20
PRECISIONS = {"float32": ["runtime.tf32=off"], "TF32": [], "bf16": ["runtime.amp=bf16"]}
GRAPH = "runtime.compile=graph"


def run(bench: Bench) -> None:
    graph = "runtime.compile=off" if bench.small else GRAPH
    rows = rows_of(bench)
    if not bench.small:
        row(bench, "live, plain steps, TF32", pair_words(bench, rows, "runtime.compile=off"), share=0.25)
    for name, words in list(PRECISIONS.items())[: 1 if bench.small else 3]:
        kernels_too = bench.small or name != "float32"
        row(bench, f"live, graph, {name}", pair_words(bench, rows, graph, *words), profiled=kernels_too)
        with bench.tried(f"a cache, {name}"):
            began = time.perf_counter()
            cache = write(bench, pair_words(bench, rows, *words), f"{bench.stage}-{name}", views=2)
            bench.say(f"a cache of two views, {name}", f"{time.perf_counter() - began:.1f} s")
            cached = pair_words(bench, rows, graph, *words, *from_cache(cache))
            row(bench, f"cached, graph, {name}", cached, profiled=name == "bf16")
    if not bench.small:  # the same again
        words = [graph, *PRECISIONS["bf16"]]
        row(bench, "live, graph, bf16, stream", pair_words(bench, rows, *words, "teacher.stream=true"))
        row(bench, "vanilla, graph, bf16", alone_words(bench, rows, *words), profiled=True)


def rows_of(bench: Bench) -> int:
    """Images of the training set."""
    return ROWS_SMALL if bench.small else ROWS


def row(bench: Bench, name: str, words: list[str], *, share: float = 1, profiled: bool = False) -> None:
    """One training. share: of the steps, for slow ones; profiled: its kernels besides."""
    steps = 1 if bench.small else int(STEPS * share)
    with bench.tried(name):
        began = time.perf_counter()
        ours = trainer(bench, [*words, "run.log_every=200"])
        advance(ours, 1 if bench.small else WARM_UP)
        made = time.perf_counter() - began
        seconds, host = best_of_two(ours, steps)
        evaluation, saving = border(ours)
        ours.latch.check(ours.world)
        whole = (PROTOCOL_STEPS * seconds + EPOCHS * (evaluation + saving)) / 60
        step = f"{1e3 * seconds:.3f} ms/step ({1 / seconds:,.0f} steps/s), host {1e3 * host:.3f}"
        rest = f"evaluation {1e3 * evaluation:.0f} ms, checkpoint {1e3 * saving:.0f} ms, start {made:.0f} s"
        bench.say(name, f"{step}, {rest}, {ours.ran.graph}", f"240 epochs in {whole:.2f} min")
        if profiled:
            kernels(bench, name, ours, 1e6 * seconds)


def best_of_two(ours: Trainer, steps: int) -> tuple[float, float]:
    """Seconds of a step, and of the host's processors."""
    first = timed(ours.world.device, lambda: advance(ours, steps)).seconds
    worked = time.process_time()
    second = timed(ours.world.device, lambda: advance(ours, steps)).seconds
    return min(first, second) / steps, (time.process_time() - worked) / steps


def border(ours: Trainer) -> tuple[float, float]:
    """Seconds of an evaluation whose graphs are made, and of a checkpoint."""
    for _ in range(2):
        ours.evaluations["test"]()
    began = time.perf_counter()
    ours.evaluations["test"]()
    between = time.perf_counter()
    ours.run.checkpoints.save_last(ours.state())
    return between - began, time.perf_counter() - between


def kernels(bench: Bench, name: str, ours: Trainer, step_us: float) -> None:
    """How many kernels a step has and how long they keep the device busy; their table goes to bench.out.

    The host's launches (cudaGraphLaunch ...) are among the rows too, and are no kernels.
    """
    kinds = torch.profiler.ProfilerActivity
    steps = 1 if bench.small else PROFILED
    with torch.profiler.profile(activities=[kinds.CPU if bench.small else kinds.CUDA]) as profile:
        advance(ours, steps)
    rows = profile.key_averages()
    file = bench.out / f"kernels-{name.replace(', ', '-').replace(' ', '_')}.txt"
    file.write_text(str(rows.table(sort_by="self_device_time_total", row_limit=40)))
    count = sum(entry.count for entry in rows if bench.small or entry.device_type != DeviceType.CPU) / steps
    busy = sum(entry.self_device_time_total for entry in rows) / steps
    bench.say("  its kernels", f"{count:.0f} a step, busy {busy:.0f} us of {step_us:.0f}")
