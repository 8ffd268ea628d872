"""One step of kd on the CPU in float32 and on the device: the pixels, the loss, and how far the weights move."""

import tempfile
from pathlib import Path

import mini_cifar
import torch
from recorded_steps import Side, words_for
from torch import Tensor

from tools.gpu.probes.bench import Bench, gap
from tools.gpu.probes.trainings import configured

# Keys of runtime, and the most error of the change of all weights, over its norm.
MODES: dict[str, tuple[list[str], float]] = {
    "float32": (["runtime.tf32=off"], 1e-4),
    "TF32": (["runtime.tf32=on"], 3e-2),
    "bf16": (["runtime.amp=bf16"], 3e-1),
}


def run(bench: Bench) -> None:
    data = mini_cifar.write(Path(tempfile.mkdtemp(dir=bench.scratch)), train=14)
    words = words_for(data, "kd", "data.batch_size=12")
    torch.manual_seed(0)
    on_cpu = Side(words, None)
    start = {name: value.clone() for name, value in on_cpu.train_step.module.state_dict().items()}
    batch = on_cpu.batches_of(0)[0]
    on_cpu.step(0, batch)
    wanted = change(on_cpu, start)
    for name, (keys, most) in MODES.items():
        with bench.tried(name):
            world = bench.world(configured(bench, [*words, *keys]).runtime)
            there = Side([*words, *keys], None, device=bench.device, world=world)
            there.train_step.module.load_state_dict(start)
            same = there.batches_of(0)[0]
            pixels = gap(same.image_BCHW.cpu(), batch.image_BCHW)
            equal = pixels == 0 and torch.equal(same.label_B.cpu(), batch.label_B)
            bench.judge(f"pixels and labels of a batch, {name}", f"{pixels:.1e} off", equal)
            there.step(0, same)
            error = float((change(there, start) - wanted).norm() / wanted.norm())
            loss, loss_there = (
                float(side.meters.read(side.train_step.world)["train_loss"]) for side in (on_cpu, there)
            )
            value = f"{error:.2e} of the change's norm, loss {loss_there:.6f} for {loss:.6f}"
            bench.judge(f"one step against the CPU's, {name}", value, error < most, f"allowed {most:g}")


def change(side: Side, start: dict[str, Tensor]) -> Tensor:
    """What the step did to all weights, in one row, on the CPU."""
    now = side.train_step.module.state_dict()
    weights = [name for name, value in start.items() if value.is_floating_point() and "running" not in name]
    return torch.cat([(now[name].cpu() - start[name]).flatten() for name in weights])
