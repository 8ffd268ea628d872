"""What a device does and can do: time by its own clock, memory, and its speed in matrix products."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = {"cuda": 8192, "cpu": 1024}  # side of the matrices


class Spent(NamedTuple):
    """seconds; peak_bytes: most memory that tensors held on a CUDA device, None elsewhere."""

    seconds: float
    peak_bytes: int | None


def wait_for(device: torch.device) -> Callable[[], None]:
    """A function that returns when the device has finished."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def timed(device: torch.device, work: Callable[[], Any]) -> Spent:
    """Time of `work` between two events of a CUDA device, by the host's clock elsewhere."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return Spent(time.perf_counter() - start, None)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return Spent(begin.elapsed_time(end) / 1000, torch.cuda.max_memory_allocated())


def peak_flops(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of the best of some square matrix products: what the device can do, measured and not looked up.

    float32 on CUDA is measured as convolutions run there: with TF32 where cuDNN may use it.
    """
    side = PRODUCTS[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    with _tf32_as_in_convolutions():
        torch.mm(a, b)  # warm-up: libraries choose their kernels here
        best = min(timed(device, lambda: torch.mm(a, b)).seconds for _ in range(repeats))
    return 2 * side**3 / best


@contextlib.contextmanager
def _tf32_as_in_convolutions() -> Any:
    if not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def training_flops(network: nn.Module, image_BCHW: Tensor) -> float:
    """Floating-point operations of forward and backward, per image (convolutions and matrix products).

    Called past torch.compile, whose graphs the counter cannot see into.
    """
    with FlopCounterMode(display=False) as counter:
        logits_BK = network.forward(image_BCHW).logits_BK
        F.cross_entropy(logits_BK, torch.zeros(len(image_BCHW), dtype=torch.int64, device=image_BCHW.device)).backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(image_BCHW)


@torch.no_grad()
def inference_flops(network: nn.Module, image_BCHW: Tensor) -> float:
    """Floating-point operations of one forward, per image."""
    with FlopCounterMode(display=False) as counter:
        network.forward(image_BCHW)
    return counter.get_total_flops() / len(image_BCHW)
