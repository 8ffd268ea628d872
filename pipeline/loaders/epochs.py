"""Epoch arithmetic common to all loaders: which samples are batch (epoch, step) of a rank, and which comes next."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import views
from pipeline.contracts import Batch, InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders.pixels import Normalise
from pipeline.loaders.plan import Plan


class Span(NamedTuple):
    """Rows start..stop of an epoch's order, and their weight: one rank's part of one global batch."""

    start: int
    stop: int
    share: float


class EpochLoader:
    """A contracts.Loader without pixels; a subclass says where they come from.

    Training: the order is shuffled each epoch, and each rank takes its part of each global batch. Evaluation: the set
    is divided among the ranks, every sample once, in natural order; ranks may differ in their number of batches.
    Raises InputError where a global batch has fewer images than there are ranks.
    """

    replayable = True

    def __init__(self, image_set: ImageSet, plan: Plan) -> None:
        self.image_set = image_set
        self.plan = plan
        index_N = np.arange(len(image_set)) if plan.index_N is None else np.asarray(plan.index_N, dtype=np.int64)
        self.num_samples = len(index_N)
        self._check(index_N)
        first, last = (0, self.num_samples) if plan.train else views.rank_slice(self.num_samples, plan.rank, plan.ranks)
        # What this rank draws from: all positions in training, its own part of them in evaluation.
        self.index_N: NDArray[np.int64] = index_N[first:last]
        self._spans = [self._span(start) for start in range(0, last - first, plan.batch_size)]
        self._epoch = 0
        self._step = 0
        self._normalise = Normalise(plan.mean, plan.std, plan.image_size, plan.channels_last, plan.device)

    def _check(self, index_N: NDArray[np.int64]) -> None:
        n, plan = len(index_N), self.plan
        name = f"{self.image_set.name}/{self.image_set.split}"
        if n == 0:
            raise InputError(f"{name}: there are no images")
        if index_N.min() < 0 or index_N.max() >= len(self.image_set):
            raise InputError(f"{name}: some positions lie outside its {len(self.image_set)} images")
        smallest = min(plan.batch_size, n % plan.batch_size or plan.batch_size)
        if plan.train and smallest < plan.ranks:
            raise InputError(
                f"{name}: {n} images in batches of {plan.batch_size} leave a batch of {smallest} for {plan.ranks} "
                "ranks, and every rank needs an image of every batch: change data.batch_size or the number of ranks"
            )

    def _span(self, start: int) -> Span:
        """This rank's part of the batch that begins at row `start`."""
        plan, rows = self.plan, min(self.plan.batch_size, len(self.index_N) - start)
        if not plan.train:
            return Span(start, start + rows, 1.0)
        a, b = views.rank_slice(rows, plan.rank, plan.ranks)
        return Span(start + a, start + b, plan.ranks * (b - a) / rows)

    def __len__(self) -> int:
        return len(self._spans)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Start at `first_step` of `epoch` at the next iteration (at the end of an epoch: an empty iteration)."""
        if epoch < 0 or not 0 <= first_step <= len(self):
            raise InputError(f"there is no step {first_step} in epoch {epoch}: an epoch has {len(self)} steps")
        self._epoch, self._step = epoch, first_step

    def state_dict(self) -> dict[str, int]:
        """The batch that comes next; those fetched ahead but not handed out do not count."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` stood. Raises InputError where this loader has no such batch."""
        self.set_epoch(state["epoch"], state["step"])

    def __iter__(self) -> Iterator[Batch]:
        plan, epoch, first = self.plan, self._epoch, self._step
        view = views.view_of(epoch, plan.views) if plan.train else 0
        rows = len(self.index_N)
        row_N = views.order(plan.seed, epoch, rows) if plan.train else np.arange(rows)
        # One copy per epoch: a copy per batch would make the host wait for the device.
        index_N = torch.from_numpy(self.index_N[row_N]).to(plan.device)
        label_N = torch.from_numpy(self.image_set.label_N[self.index_N[row_N]]).to(plan.device)
        spans = self._spans[first:]
        for span, pixels_BHWC in zip(spans, self._pixels(row_N, view, spans), strict=True):
            first += 1
            self._epoch, self._step = (epoch, first) if first < len(self) else (epoch + 1, 0)
            yield Batch(
                image_BCHW=self._normalise(pixels_BHWC),
                label_B=label_N[span.start : span.stop],
                index_B=index_N[span.start : span.stop],
                view=view,
                share=span.share,
            )
        if not spans:
            self._epoch, self._step = epoch + 1, 0

    def _pixels(self, row_N: NDArray[np.int64], view: int, spans: Sequence[Span]) -> Iterator[Tensor]:
        """For each span of row_N (rows of index_N, in the order of the epoch): uint8 [B, H, W, 3] on the device."""
        raise NotImplementedError
