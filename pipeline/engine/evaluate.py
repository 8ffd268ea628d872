"""Counts over a set, each sample once, whatever the number of ranks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import Distiller, Loader, ModelOutput
from pipeline.engine.distributed.parallel import World
from pipeline.engine.distributed.preemption import Interrupts
from pipeline.engine.ema import Ema
from pipeline.engine.graph.backends import Recorder
from pipeline.engine.graph.cache import GraphCache
from pipeline.engine.update import Updater


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counts over all samples; loss: mean cross-entropy."""

    samples: int
    correct_top1: int
    correct_top5: int
    loss: float

    @property
    def top1(self) -> float:
        """Per cent."""
        return 100 * self.correct_top1 / self.samples

    @property
    def top5(self) -> float:
        """Per cent."""
        return 100 * self.correct_top5 / self.samples


class Evaluation:
    """Scores `network` on `loader`, added up over the ranks, each time it is called.

    predict: logits_BK out of the network's output. flip: the mean of the logits of each image and of its mirror image.
    recorder: makes the counting of a batch a graph; network and predictor must stay where they are between calls. note:
    told where that fails.
    Leaves the network's mode as it found it. With fewer than five classes, top-5 counts all.
    """

    def __init__(
        self,
        network: nn.Module,
        predict: Callable[[ModelOutput], Tensor],
        loader: Loader,
        world: World,
        autocast: Callable[[], AbstractContextManager[object]],
        *,
        features: bool = False,
        flip: bool = False,
        recorder: Recorder | None = None,
        note: Callable[[str], Any] = lambda text: None,
    ) -> None:
        self.network, self.predict, self.loader = network, predict, loader
        self.world, self.autocast, self.features, self.flip = world, autocast, features, flip
        self.note = note
        self._total = torch.zeros(4, dtype=torch.float64, device=world.device)
        self._most: int | None = None
        self._count = GraphCache(self._add, recorder, self._fall_back, lambda: [self._total])

    def _fall_back(self, reason: str, instead: str) -> None:
        self.note(f"runtime.compile=graph: evaluation: {reason}; its batches {instead}")

    def _logits(self, image_BCHW: Tensor) -> Tensor:
        with self.autocast():
            output: ModelOutput = self.network(image_BCHW, features=self.features)
        return self.predict(output.float())

    def _add(self, inputs: tuple[Tensor, Tensor]) -> None:
        image_BCHW, label_B = inputs
        logits_BK = self._logits(image_BCHW)
        if self.flip:
            logits_BK = (logits_BK + self._logits(image_BCHW.flip(3))) / 2
        best_B5 = logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices
        hit_B5 = best_B5 == label_B[:, None]
        self._total[0] += len(hit_B5)
        self._total[1] += hit_B5[:, 0].sum()
        self._total[2] += hit_B5.sum()
        self._total[3] += F.cross_entropy(logits_BK, label_B, reduction="sum")

    @torch.no_grad()
    def __call__(self, interrupts: Interrupts | None = None) -> Score:
        """Raises Stopped where `interrupts` says so, on all ranks at the same batch."""
        was_training = self.network.training
        self.network.eval()
        self._total.zero_()
        try:
            self._count_all(interrupts)
        finally:
            self.network.train(was_training)
        samples, top1, top5, loss = self.world.sum(self._total.clone()).tolist()
        return Score(samples=int(samples), correct_top1=int(top1), correct_top5=int(top5), loss=loss / max(samples, 1))

    def _count_all(self, interrupts: Interrupts | None) -> None:
        batches = 0
        for batch in self.loader if interrupts is None else interrupts.awaited(self.loader):
            self._count((batch.image_BCHW, batch.label_B))
            batches += 1
            if interrupts is not None:
                interrupts.stop_if_asked()
        if interrupts is not None and self.world.ranks > 1:
            for _ in range(self._most_batches() - batches):  # ranks ask equally often
                interrupts.stop_if_asked()

    def _most_batches(self) -> int:
        """Of a rank: parts of the set may differ by an image, and so by a batch."""
        if self._most is None:
            own = torch.tensor(len(self.loader), device=self.world.device)
            self._most = int(self.world.largest(own))
        return self._most


def averaged_buffers(network: nn.Module, world: World) -> dict[str, Tensor]:
    """Copies of the network's buffers with floating ones (BN statistics) averaged over the ranks."""
    averaged = {}
    for name, buffer in network.named_buffers():
        copy = buffer.detach().clone()
        averaged[name] = world.sum(copy).div_(world.ranks) if copy.is_floating_point() else copy
    return averaged


@contextmanager
def inference_state(network: nn.Module, ema: Ema | None, world: World) -> Iterator[None]:
    """`network` with what inference uses: averaged weights where kept, BN statistics averaged over the ranks.

    Puts the training state back, bit for bit: evaluation never changes a run.
    """
    if ema is None and world.ranks == 1:
        yield
        return
    swapped = averaged_buffers(network, world) | (ema.state_dict() if ema is not None else {})
    present = dict(network.named_buffers()) | dict(network.named_parameters())
    with torch.no_grad():
        kept = {name: present[name].detach().clone() for name in swapped}
        for name, value in swapped.items():
            present[name].copy_(value)
        try:
            yield
        finally:
            for name, value in kept.items():
                present[name].copy_(value)


@contextmanager
def predicting(student: nn.Module, distiller: Distiller, updater: Updater, world: World) -> Iterator[None]:
    """Student and, where the method predicts, the method as inference uses them; put back afterwards."""
    other = distiller.predictor()
    was_training = distiller.training
    with ExitStack() as stack:
        stack.enter_context(inference_state(student, updater.ema, world))
        if other is not None:
            stack.enter_context(inference_state(other, updater.predictor_ema, world))
        distiller.eval()
        try:
            yield
        finally:
            distiller.train(was_training)
