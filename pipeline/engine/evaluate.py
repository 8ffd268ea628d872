"""Counts over a set, each sample once, whatever the number of ranks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import Loader, ModelOutput
from pipeline.engine.ema import Ema
from pipeline.engine.parallel import World


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


@torch.no_grad()
def evaluate(
    network: nn.Module,
    predict: Callable[[ModelOutput], Tensor],
    loader: Loader,
    world: World,
    autocast: Callable[[], AbstractContextManager[object]],
    *,
    features: bool = False,
    flip: bool = False,
) -> Score:
    """Score of `network` on `loader`, added up over the ranks. predict: logits_BK out of the network's output.

    flip: the mean of the logits of each image and of its mirror image. Leaves the network's mode as it found it. With
    fewer than five classes, top-5 counts all.
    """

    def logits_of(image_BCHW: Tensor) -> Tensor:
        with autocast():
            output: ModelOutput = network(image_BCHW, features=features)
        return predict(output.float())

    was_training = network.training
    network.eval()
    total = torch.zeros(4, dtype=torch.float64, device=world.device)
    for batch in loader:
        logits_BK = logits_of(batch.image_BCHW)
        if flip:
            logits_BK = (logits_BK + logits_of(batch.image_BCHW.flip(3))) / 2
        best_B5 = logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices
        hit_B5 = best_B5 == batch.label_B[:, None]
        loss = F.cross_entropy(logits_BK, batch.label_B, reduction="sum")
        total[0] += len(hit_B5)
        total[1] += hit_B5[:, 0].sum()
        total[2] += hit_B5.sum()
        total[3] += loss
    network.train(was_training)
    samples, top1, top5, loss_sum = world.sum(total).tolist()
    return Score(samples=int(samples), correct_top1=int(top1), correct_top5=int(top5), loss=loss_sum / max(samples, 1))


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
