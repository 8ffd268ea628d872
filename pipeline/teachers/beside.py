"""Work on a CUDA stream of its own: the teacher's forward beside the student's."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pipeline.contracts import ModelOutput


class Beside(Protocol):
    """run(work, *inputs): starts work() with what is queued before it done; join(): what follows waits for it."""

    def run(self, work: Callable[[], ModelOutput], *inputs: Tensor) -> ModelOutput: ...

    def join(self) -> None: ...


class InLine:
    """No stream of its own: work is done when `run` returns. That of a CPU."""

    def run(self, work: Callable[[], ModelOutput], *inputs: Tensor) -> ModelOutput:
        return work()

    def join(self) -> None:
        """Nothing is under way."""


class SideStream:
    """A CUDA stream.

    The allocator hands a freed tensor's memory to the next one of the stream that made it; record_stream tells it of
    the other stream that still reads: the side one of `inputs`, the caller's of the outputs.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self._under_way = False

    def run(self, work: Callable[[], ModelOutput], *inputs: Tensor) -> ModelOutput:
        """Outputs must not be read before `join`."""
        present = torch.cuda.current_stream(self.stream.device)
        self._under_way = True
        self.stream.wait_stream(present)
        with torch.cuda.stream(self.stream):
            output = work()
        for tensor in inputs:
            tensor.record_stream(self.stream)
        for tensor in (output.logits_BK, output.pooled_BD, *output.features, *output.preact_features):
            tensor.record_stream(present)
        return output

    def join(self) -> None:
        """The present stream goes on when the side one is done; the host does not wait.

        Without work since the last time nothing is done: in a capture (the student's evaluation) waiting for a stream
        that is not part of it is an error.
        """
        if not self._under_way:
            return
        self._under_way = False
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
