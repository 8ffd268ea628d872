"""The teacher as a network that sees the batch the student sees."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, ModelOutput, Signal
from pipeline.teachers import TEACHERS


class NoTeacher:
    """The source of a method that needs none."""

    provides = Signal.NONE
    views: int | None = None
    network: Any = None

    def __call__(self, batch: Batch) -> None:
        return None


@TEACHERS.register("live")
class LiveTeacher:
    """A frozen network in eval mode, run without gradients. Provides everything a method can ask for.

    make_network: gives the network, on the device; needs: what the method asks for (stage maps are returned only then);
    autocast: a factory of contexts; prepare: the teacher's own preprocessing of the student's view; batch_statistics:
    in training mode after all, for variants whose official code does so.
    """

    section: str | None = None  # of the teacher's keys: none of its own
    recorded = False
    views: int | None = None
    provides = Signal.LOGITS | Signal.POOLED | Signal.FEATURES | Signal.WEIGHTS

    def __init__(
        self,
        make_network: Callable[[], nn.Module],
        *,
        needs: Signal,
        autocast: Callable[[], AbstractContextManager[object]],
        prepare: Callable[[Tensor], Tensor] = lambda image_BCHW: image_BCHW,
        batch_statistics: bool = False,
    ) -> None:
        self.network = make_network().train(batch_statistics).requires_grad_(False)
        self.features = Signal.FEATURES in needs
        self.autocast = autocast
        self.prepare = prepare

    def __call__(self, batch: Batch) -> ModelOutput:
        with torch.no_grad(), self.autocast():
            output: ModelOutput = self.network(self.prepare(batch.image_BCHW), features=self.features)
        return output.float()
