"""What changes of design would bring: the frozen teacher alone, captured, in several forms."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import RuntimeConfig
from pipeline.engine.distributed.parallel import place
from pipeline.models.build import build
from pipeline.models.folding import fold_norms
from tools.gpu.probes.bench import Bench, gap
from tools.gpu.probes.trainings import PAIR

AT_ONCE = 8  # steps of images in one forward
CHAIN = 200
Work = Callable[[Tensor], Any]


def run(bench: Bench) -> None:
    bench.settle()
    bench.world(RuntimeConfig())
    rows = 2 if bench.small else 64
    network = place(build(PAIR[bench.small][0], num_classes=100), RuntimeConfig(), bench.device)
    folded = fold_norms(network.eval().requires_grad_(False), image(bench, 1))
    held = copy.deepcopy(folded).bfloat16()
    one_BCHW, many_BCHW = image(bench, rows), image(bench, AT_ONCE * rows)
    row(bench, "teacher: TF32, folded", logits(folded), one_BCHW)
    row(bench, "teacher: bf16 by autocast", autocast(bench, folded), one_BCHW)
    row(bench, "teacher: weights held in bf16", logits(held), one_BCHW.bfloat16())
    row(bench, f"teacher: held, {AT_ONCE} steps at once", logits(held), many_BCHW.bfloat16(), AT_ONCE)
    with bench.tried("one kernel a convolution"):
        with torch.no_grad():
            apart = gap(joined(bench, folded)(one_BCHW), logits(folded)(one_BCHW))
        bench.judge("teacher: one kernel a convolution, its numbers", f"{apart:.1e}", apart < 5e-3)
        row(bench, "teacher: held, one kernel a convolution", joined(bench, held), one_BCHW.bfloat16())
        row(bench, f"teacher: the same, {AT_ONCE} at once", joined(bench, held), many_BCHW.bfloat16(), AT_ONCE)
    with bench.tried("compiled"):
        made = held if bench.small else torch.compile(held, dynamic=False)
        row(bench, "teacher: held, inductor", logits(made), one_BCHW.bfloat16())
        row(bench, f"teacher: held, inductor, {AT_ONCE} at once", logits(made), many_BCHW.bfloat16(), AT_ONCE)
    number = torch.ones((), device=bench.device)
    row(bench, f"{CHAIN} additions, each of the last", lambda x: [x.add_(1) for _ in range(CHAIN)], number)


def image(bench: Bench, rows: int) -> Tensor:
    """Noise [rows, 3, 32, 32]."""
    return torch.randn(rows, 3, 32, 32, device=bench.device).to(memory_format=torch.channels_last)


def logits(network: Any) -> Work:
    """The network's logits."""
    return lambda image_BCHW: network(image_BCHW).logits_BK


def autocast(bench: Bench, network: nn.Module) -> Work:
    """The same in bf16, weights cast on the way."""

    def work(image_BCHW: Tensor) -> Any:
        with torch.autocast(bench.device.type, dtype=torch.bfloat16):
            return network(image_BCHW).logits_BK

    return work


def joined(bench: Bench, network: Any) -> Work:
    """Convolution, bias, shortcut and ReLU as one kernel of cuDNN each; elsewhere the same as operations of their own.

    network: a CIFAR ResNet whose batch norms are folded.
    """

    def conv(layer: Any, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if bench.small:
            out = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)
            return F.relu(out if shortcut is None else out + shortcut)
        if shortcut is None:
            return torch.cudnn_convolution_relu(
                x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, 1
            )
        return torch.cudnn_convolution_add_relu(
            x, layer.weight, shortcut, 1.0, layer.bias, layer.stride, layer.padding, layer.dilation, 1
        )

    def work(x: Tensor) -> Any:
        x = conv(network.conv1, x)
        for stage in (network.layer1, network.layer2, network.layer3):
            for block in stage:
                shortcut = x if block.downsample is None else block.downsample(x)
                x = conv(block.conv2, conv(block.conv1, x), shortcut)
        return network.fc(x.mean((2, 3)))

    return work


def row(bench: Bench, name: str, work: Work, x: Tensor, steps: int = 1) -> None:
    """Time of `work(x)`, replayed from a graph, for each of `steps`."""
    with bench.tried(name), torch.no_grad():
        if bench.small:
            work(x)
            bench.say(name, "ran")
            return
        microseconds = replayed(work, x) / steps
        bench.say(name, f"{microseconds:.0f} us for 64 images" if x.ndim else f"{microseconds:.0f} us")


def replayed(work: Work, x: Tensor, warm_up: int = 20, times: int = 200) -> float:
    """Microseconds of a replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work(x)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(warm_up):
        graph.replay()
    begin.record()
    for _ in range(times):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(1e3 * begin.elapsed_time(end) / times)
