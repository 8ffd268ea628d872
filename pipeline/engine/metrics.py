"""Sums that stay on the device until somebody reads them, and the clock of the training loop."""

import time
from typing import Any

import torch
from torch import Tensor

from pipeline.contracts import Batch
from pipeline.engine.distributed.parallel import World
from pipeline.engine.forward import StepOutput, same_terms


class Meters:
    """Loss, named terms and top-1 of an epoch, weighted by rows, in float64."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.empty = True  # nothing was added since the epoch began
        self.total = torch.zeros(0, dtype=torch.float64, device=device)

    def reset(self) -> None:
        """Forget everything, at the start of an epoch."""
        self.total.zero_()
        self.empty = True

    def add(self, output: StepOutput, batch: Batch) -> None:
        """One slice of a batch: [rows, correct, loss * rows, term * rows, ...]. Raises InputError: other terms than
        before in the epoch."""
        if not self.empty:
            same_terms(self.names, output.terms)
        self.empty = False
        if self.names != list(output.terms):
            self.names = list(output.terms)
            self.total = torch.zeros(3 + len(self.names), dtype=torch.float64, device=self.device)
        rows = batch.label_B.shape[0]
        correct = (output.logits_BK.argmax(1) == batch.label_B).sum()
        means = torch.stack([output.loss.detach().reshape(()), *(t.reshape(()) for t in output.terms.values())])
        self.total[0] += rows
        self.total[1] += correct
        self.total[2:] += means.double() * rows

    def read(self, world: World) -> dict[str, Any]:
        """{'train_loss', 'train_top1' (%), 'terms'} over all samples and ranks so far."""
        total = world.sum(self.total.clone()).tolist()
        if len(total) < 3 or total[0] == 0:
            return {"train_loss": float("nan"), "train_top1": float("nan"), "terms": {}}
        rows, correct, loss, *terms = total
        return {
            "train_loss": loss / rows,
            "train_top1": 100 * correct / rows,
            "terms": {name: term / rows for name, term in zip(self.names, terms, strict=True)},
        }

    def state_dict(self) -> dict[str, object]:
        """This rank's sums."""
        return {"names": self.names, "total": self.total.cpu()}

    def load_state_dict(self, names: list[str], total: Tensor) -> None:
        """What `state_dict` gave."""
        self.names = list(names)
        self.total = total.to(self.device, torch.float64).clone()
        self.empty = not self.names


class Clock:
    """Seconds and images of training steps, and the share of them that the host waits for data.

    Left out are the first five steps of a process (start-up, compilation), steps in which something was compiled, and
    all that lies between `pause` and `resume` (evaluation, checkpoints). A CUDA device is behind the host: what it
    still has to do is computing, not a wait for data, and is known when a read has waited for it (`computed`).
    """

    WARM_UP = 5

    def __init__(self, images: int = 0, seconds: float = 0.0) -> None:
        self.images, self.seconds = images, seconds
        self.steps = 0
        self.waited = 0.0
        self.counts = False  # whether the last step did
        self._left_out = False
        self._epoch = self._known = (images, seconds, 0.0)
        self._last = time.perf_counter()

    @property
    def _now(self) -> tuple[int, float, float]:
        return self.images, self.seconds, self.waited

    def start_epoch(self) -> None:
        """Per-epoch figures count from here."""
        self._epoch = self._known = self._now
        self.resume()

    def resume(self) -> None:
        """Time runs again."""
        self._last = time.perf_counter()

    def pause(self) -> None:
        """Nothing counts before the next step."""
        self.counts = False

    def data_arrived(self) -> None:
        """The loader has given a batch."""
        if self.steps >= self.WARM_UP:
            self.waited += time.perf_counter() - self._last

    def leave_out(self) -> None:
        """The present step does not count: something was compiled in it."""
        self._left_out = True

    def step_done(self, images: int) -> None:
        """One global batch of `images` is through, as far as the host is concerned."""
        now = time.perf_counter()
        self.counts = self.steps >= self.WARM_UP and not self._left_out
        if self.counts:
            self.images += images
            self.seconds += now - self._last
        elif self._left_out:
            # A capture waits for the device: what steps before it left to do is hidden in its time. They go with it.
            self.images, self.seconds, self.waited = self._known
        self.steps += 1
        self._left_out = False
        self._last = now

    def computed(self, *, behind: bool = False) -> None:
        """What has passed since the step, on the host or in waiting for the device, belongs to it.

        behind: the device may still have something to do.
        """
        now = time.perf_counter()
        if self.counts:
            self.seconds += now - self._last
        if not behind:
            self._known = self._now
        self._last = now

    @property
    def images_per_second(self) -> float:
        """Over the whole run, interrupted parts included; 0 before the sixth step."""
        return self.images / self.seconds if self.seconds else 0.0

    def epoch_figures(self) -> dict[str, float]:
        """{'images_per_second', 'data_wait' (share of time)} since start_epoch."""
        images, seconds, waited = self._epoch
        spent = self.seconds - seconds
        if spent <= 0:
            return {"images_per_second": 0.0, "data_wait": 0.0}
        return {"images_per_second": (self.images - images) / spent, "data_wait": (self.waited - waited) / spent}
