"""A capture of CUDA's, and what is to be done when one fails.

What fails inside a capture invalidates it, and `CUDAGraph::capture_end` (torch 2.11 to 2.13) then raises before it has
told allocator, random generator and stream that the capture is over.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

_failed: list[torch.cuda.CUDAGraph] = []  # the allocator's filter of a capture that failed still points at its graph


class DeviceBroken(RuntimeError):
    """A capture failed, and the device does not compute any more."""


def first_line(error: BaseException) -> str:
    """What an error says, without its advice and traces."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def captured(body: Callable[[], Any], stream: torch.cuda.Stream, pool: Any = None) -> torch.cuda.CUDAGraph:
    """What `body` launches as a graph; nothing has run. Raises RuntimeError: the first one, where one led to others."""
    graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream(stream.device)
    first: list[RuntimeError] = []
    try:
        # Other threads (loaders) may allocate or copy meanwhile: only this one's calls are checked.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            try:
                body()
            except RuntimeError as error:
                first.append(error)
                raise
    except RuntimeError as error:
        torch.cuda.set_stream(present)  # torch leaves the capture's own where ending it failed
        _failed.append(graph)
        raise (first or [error])[0] from None
    return graph


def put_right(device: torch.device, stream: torch.cuda.Stream, pool: Any) -> None:
    """Ends for torch what CUDA has ended, and tries whether the device computes. Raises DeviceBroken.

    The random numbers are those that would have come without the trial.
    """
    # Otherwise memory that another stream has read (record_stream) would never be used again.
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device.index, pool)
    # Otherwise random numbers are refused: until a capture has succeeded, torch 2.11 takes the failed one as going on.
    with contextlib.suppress(RuntimeError):
        one = torch.ones((), device=device)
        captured(lambda: one.add_(1), stream)
    try:
        before = torch.cuda.get_rng_state(device)
        torch.rand(1, device=device)
        torch.cuda.set_rng_state(before, device)
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise DeviceBroken(
            f"a CUDA graph could not be captured, and the device does not compute since ({first_line(error)}): start "
            "again with runtime.compile=off; the last good checkpoint stands"
        ) from error
