"""As much of torch.cuda as captures and streams ask, on any machine: who waits for whom, and captures that fail."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda", 0)
INVALIDATED = "CUDA error: operation failed due to a previous error during capture\nCompile with TORCH_USE_CUDA_DSA"


class Stream:
    """waits: the streams that it was told to wait for."""

    def __init__(self, device: torch.device = DEVICE) -> None:
        self.device, self.waits = device, list[Stream]()

    def wait_stream(self, other: "Stream") -> None:
        self.waits.append(other)


class Graph:
    def __init__(self) -> None:
        self.body: Callable[[], None] | None = None
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class FakeCuda:
    """`ended`: pools whose allocation was ended; broken: random numbers are refused; as they are while `going_on`: a
    capture has failed, and none has succeeded since."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.default = self.present = Stream()
        self.ended: list[Any] = []
        self.random = torch.zeros(1)
        self.broken = self.going_on = False
        for name in ("Stream", "current_stream", "set_stream", "stream", "graph", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name, Stream))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: self.random.clone())
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: self.random.copy_(state))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *at: self.ended.append(at), raising=False)
        monkeypatch.setattr(torch, "rand", self.rand)
        monkeypatch.setattr(torch, "ones", lambda size, device: torch.zeros(size) + 1)

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return self.present

    def set_stream(self, stream: Stream) -> None:
        self.present = stream

    def synchronize(self, device: torch.device | None = None) -> None:
        """Nothing is under way."""

    def rand(self, *size: int, device: torch.device) -> torch.Tensor:
        if self.broken or self.going_on:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.random += 4
        return torch.zeros(size)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.present = self.present, stream
        try:
            yield
        finally:
            self.present = before

    @contextlib.contextmanager
    def graph(self, graph: Graph, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """As torch's: where the end of a capture fails, the present stream stays its own."""
        before, self.present = self.present, stream
        try:
            yield
        except RuntimeError:
            self.going_on = True
            raise RuntimeError(INVALIDATED) from None
        self.present, self.going_on = before, False
