"""How many seeds are trained at once, and what each of them gets of the machine."""

import os
import re
from dataclasses import dataclass

from pipeline.config import RuntimeConfig

# Steps after which the first seed's memory says how many others fit: its buffers, its optimiser's state and what
# cudnn tries out are there by then; evaluation, whose batches may be larger, is not.
WARM = 20
SPARE = 1.5  # room for each further seed, of the first one's peak: for evaluation, and for what lies in pieces
CONTEXT = 1 << 30  # bytes of a process on the device that torch does not count: CUDA's own, libraries, graphs


@dataclass(frozen=True, kw_only=True)
class Share:
    """at_once: processes, at most; threads: of the CPU for each; by_memory: a GPU's free memory lowers at_once."""

    at_once: int
    threads: int
    by_memory: bool


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the first seed reports after `steps` of its own: device type; free bytes of the device and the most that it
    has reserved itself, both 0 on a CPU."""

    steps: int
    device: str
    free: int = 0
    peak: int = 0


def cores() -> int:
    """CPU cores that this process may use: those of its job, not of the machine."""
    return len(os.sched_getaffinity(0))


def given_threads(runtime: RuntimeConfig) -> int:
    """runtime.threads, or OMP_NUM_THREADS, or 0 where nobody says."""
    said = re.match(r"\s*(\d+)", os.environ.get("OMP_NUM_THREADS", ""))
    return runtime.threads or (int(said[1]) if said else 0)


def share_out(seeds: int, runtime: RuntimeConfig) -> Share:
    """runtime.parallel_seeds of `seeds`; 0 (auto): as many as there are cores for their threads, one each if not said.

    The threads depend on configuration and machine only, not on how many seeds are still to be trained: on a CPU the
    order of sums depends on them, and a run that goes on shall go on bit-exactly.
    """
    threads, auto = given_threads(runtime), runtime.parallel_seeds == 0
    wanted = cores() // (threads or 1) if auto else runtime.parallel_seeds
    at_once = max(1, min(seeds, wanted))
    return Share(at_once=at_once, threads=threads or max(1, cores() // at_once), by_memory=auto)


def limit_by(share: Share, seen: Seen) -> int:
    """How many may run side by side, the first one among them, after what it has reported."""
    if seen.device == "cpu" or not share.by_memory:
        return share.at_once
    if seen.steps < WARM:
        return 1
    more = seen.free / (SPARE * seen.peak + CONTEXT)
    return max(1, min(share.at_once, 1 + int(more)))
