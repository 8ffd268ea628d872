"""Remembers, on the device, the first step whose loss or gradient was not finite."""

import torch
from torch import Tensor

from pipeline.contracts import Batch
from pipeline.engine.distributed.parallel import World
from pipeline.engine.forward import StepOutput


class NonFiniteLoss(RuntimeError):
    """Training met a loss or gradient that is inf or NaN; the run stops, its last good checkpoint stands."""


class Latch:
    """Holds step number, terms and sample indices of the first bad step; the host looks when it reads meters anyway."""

    def __init__(self, device: torch.device, rows: int) -> None:
        self.step = torch.full((), -1, dtype=torch.int64, device=device)
        self.index = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.names: list[str] = []
        self.terms = torch.zeros(0, device=device)

    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        return [self.step, self.terms, self.index]

    def observe(self, bad: Tensor, output: StepOutput, batch: Batch, number: Tensor) -> None:
        """Keeps what it holds once it has caught a step. bad: 0-d bool; number: of the step, 0-d int64.

        Works in place: it may be in a graph.
        """
        if self.names != list(output.terms):
            self.names = list(output.terms)
            self.terms = torch.zeros(len(self.names), device=bad.device)
        first = bad & (self.step < 0)
        rows = batch.index_B.shape[0]
        terms = torch.stack([t.reshape(()).float() for t in output.terms.values()])
        self.step.copy_(torch.where(first, number, self.step))
        self.terms.copy_(torch.where(first, terms, self.terms))
        self.index[:rows] = torch.where(first, batch.index_B, self.index[:rows])
        self.index[rows:] = torch.where(first, -1, self.index[rows:])

    def check(self, world: World) -> None:
        """Raises NonFiniteLoss on every rank when any rank has caught a step."""
        caught = (self.step >= 0).to(torch.int64).reshape(1)
        if not int(world.sum(caught)):
            return
        mine = None
        if int(self.step) >= 0:
            terms = ", ".join(f"{n}={v:g}" for n, v in zip(self.names, self.terms.tolist(), strict=True))
            mine = (int(self.step) + 1, terms, [i for i in self.index.tolist() if i >= 0])
        found = [m for m in world.gather(mine) if m is not None]
        step, terms, index = world.share(found[0] if found else (0, "", []))
        raise NonFiniteLoss(
            f"step {step}: the loss or its gradient is not finite ({terms}); samples of the batch: "
            f"{', '.join(map(str, index))}; the update was skipped and the last good checkpoint stands"
        )
