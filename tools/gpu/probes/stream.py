"""teacher.stream with graphs: evaluation, whose student has a hook that joins the side stream, is recorded as well."""

import math

from pipeline.measure.loops import advance
from tools.gpu.probes.bench import Bench
from tools.gpu.probes.trainings import noise_cifar, trainer

STEPS = 10


def run(bench: Bench) -> None:
    mode, steps = ("off", 1) if bench.small else ("graph", STEPS)  # compiling a trace for a CPU takes a minute
    root = noise_cifar(bench, 32 if bench.small else 2560)
    data = ["dataset=cifar100", f"data.root={root}", "data.batch_size=32"]
    pair = ["teacher.model=resnet14", "student.model=resnet8", "teacher.checkpoint=none", "method=kd"]
    ours = trainer(bench, [*data, *pair, f"runtime.compile={mode}", "teacher.stream=true"])
    advance(ours, steps)
    evaluation = ours.evaluations["test"]
    first, again = evaluation(), evaluation()
    graphs = evaluation._count.graphs
    good = first == again and (graphs > 0 or bench.small)
    value = f"{graphs} graphs, equal {first == again}, steps {ours.ran.graph}"
    bench.judge("evaluation under teacher.stream", value, good)
    advance(ours, steps)
    ours.latch.check(ours.world)
    loss = ours.meters.read(ours.world)["train_loss"]
    bench.judge("training after it", f"loss {loss:.4f}", math.isfinite(loss))
