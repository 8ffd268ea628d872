"""How near to the device's limits a step comes: its ceilings, and the time that goes into launching."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from pipeline.measure.counters import Count
from pipeline.measure.device import timed, wait_for
from pipeline.measure.rounds import SPEED

COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes: far more than caches hold
SMALLEST = 2000  # operations timed at a time


def copy_bandwidth(device: torch.device, repeats: int = 7) -> float:
    """Bytes/s, read and written, of the best of some copies of a large tensor by as many threads as a step has."""
    source = torch.ones(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)  # touches the pages
    best = min(timed(device, lambda: target.copy_(source)).seconds for _ in range(repeats))
    return 2 * COPIED[device.type] / best


def operation_seconds(device: torch.device, repeats: int = 5) -> float:
    """What an operation costs the host before any arithmetic: the best of some runs of sums of two numbers."""
    one = torch.ones((), device=device)

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(SMALLEST):
            torch.add(one, one)
        return (time.perf_counter() - begin) / SMALLEST

    run()
    best = min(run() for _ in range(repeats))
    wait_for(device)()
    return best


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans: kernels of two streams that run at once count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def busy_seconds(work: Callable[[], Any]) -> float:
    """Time in which at least one kernel or copy of `work` runs on the CUDA device, by torch's profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        torch.cuda.synchronize()
    # Annotations (of optimisers, say) are drawn on the device's track too, over the gaps between kernels.
    on_device = (
        e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation
    )
    return covered((e.time_range.start, e.time_range.end) for e in on_device) / 1e6


def against_limits(row: dict[str, Any], flops: float, peak: float, count: Count | None, copy: float) -> dict[str, Any]:
    """Figures that a row gains: FLOPs and bytes, their rates, and these as shares of what the device can do.

    flops: per image; peak: FLOP/s of a matrix product; count: of an eager step, None where it was not counted; copy:
    bytes/s of a copy.
    """
    rate = flops * row[SPEED]
    found = {"flops_per_image": round(flops), "flops_per_second": round(rate), "mfu": four(rate / peak)}
    if count is None:
        return found
    traffic = count.bytes / (row["ms_per_step"] / 1000)
    return found | {
        "operations": round(count.operations),
        "bytes_per_step": round(count.bytes),
        "bytes_per_second": round(traffic),
        "copy_share": four(traffic / copy),
        "host_reads": count.reads,
    }


def launch_share(row: dict[str, Any], each: float) -> float | None:
    """On a CPU: operations of an eager step times `each`, the seconds of the smallest one, over the step's time.

    None where operations were not counted. An upper estimate: those of the backward pass are called from C++.
    """
    return four(row["operations"] * each / (row["ms_per_step"] / 1000)) if "operations" in row else None


def idle_share(row: dict[str, Any], measure: Callable[[], Any]) -> float:
    """On CUDA: the share of a step in which no kernel runs, 1 - busy / time. One more round of `measure`, profiled."""
    rounds: list[dict[str, Any]] = []
    busy = busy_seconds(lambda: rounds.append(measure()))
    return four(max(0.0, 1 - busy / rounds[0]["steps"] / (row["ms_per_step"] / 1000)))


def four(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")
