"""The teacher as a network that sees the batch the student sees."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, ModelOutput, Signal
from pipeline.teachers import TEACHERS
from pipeline.teachers.beside import Beside, InLine


class NoTeacher:
    """The source of a method that needs none."""

    provides = Signal.NONE
    recorded = compares = False
    views: int | None = None
    network: Any = None

    def modules(self) -> tuple[nn.Module, ...]:
        """None."""
        return ()

    def __call__(self, batch: Batch) -> None:
        return None


@TEACHERS.register("live")
class LiveTeacher:
    """A frozen network in eval mode, run without gradients. Provides everything a method can ask for.

    make_network: gives the network, on the device, with its own weights (`network`: what methods and checks read);
    ready: gives what is run instead of it (`running`: batch norms folded, compiled); needs: what the method asks for
    (stage maps are returned only then); autocast: a factory of contexts; prepare: the teacher's own preprocessing of
    the student's view; batch_statistics: in training mode after all, for variants whose official code does so; beside:
    where it runs. `waits`: whoever reads the outputs calls beside.join() first; otherwise that is done here.

    no_grad and not inference_mode: that gained nothing (folded, channels-last, two EPYC cores, interleaved: 0.97, 1.02
    and 0.97 times as fast with resnet56, resnet32x4 and ResNet-34 at 224 px), and its tensors may not be saved for the
    student's backward, as losses do with the teacher's logits, without a copy of each.
    """

    section: str | None = None  # of the teacher's keys: none of its own
    recorded = compares = False
    views: int | None = None
    provides = Signal.LOGITS | Signal.POOLED | Signal.FEATURES | Signal.WEIGHTS

    def __init__(
        self,
        make_network: Callable[[], nn.Module],
        *,
        needs: Signal,
        autocast: Callable[[], AbstractContextManager[object]],
        prepare: Callable[[Tensor], Tensor] = lambda image_BCHW: image_BCHW,
        ready: Callable[[nn.Module], nn.Module] = lambda network: network,
        batch_statistics: bool = False,
        beside: Beside | None = None,
    ) -> None:
        self.network = make_network().train(batch_statistics).requires_grad_(False)
        self.running = ready(self.network).train(batch_statistics)
        self.features = Signal.FEATURES in needs
        self.autocast = autocast
        self.prepare = prepare

        self.beside: Beside = beside or InLine()
        self.waits = False

    def modules(self) -> tuple[nn.Module, ...]:
        """The network, and what is run instead of it."""
        return (self.network,) if self.running is self.network else (self.network, self.running)

    def __call__(self, batch: Batch) -> ModelOutput:
        output = self.beside.run(lambda: self._forward(batch.image_BCHW), batch.image_BCHW)
        if not self.waits:
            self.beside.join()
        return output

    def _forward(self, image_BCHW: Tensor) -> ModelOutput:
        with torch.no_grad(), self.autocast():
            output: ModelOutput = self.running(self.prepare(image_BCHW), features=self.features)
        return output.float()
