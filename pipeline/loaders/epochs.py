"""Epoch arithmetic common to all loaders: which samples are batch (epoch, step) of a rank, and which comes next."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import views
from pipeline.contracts import Batch, InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders.further import FurtherViews, Read, Span
from pipeline.loaders.pixels import Normalise
from pipeline.loaders.plan import STEP_KINDS, Plan


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

    def _order(self, epoch: int, view: int) -> NDArray[np.int64]:
        """Rows of index_N in the order of the epoch."""
        plan, rows = self.plan, len(self.index_N)
        if plan.drawn_by(STEP_KINDS):
            # Of the view, like all that depends on who is in a batch: a view then shows the same whatever the run.
            return views.order(plan.data_seed, view, rows)
        return views.order(plan.seed, epoch, rows) if plan.train else np.arange(rows)

    def __iter__(self) -> Iterator[Batch]:
        plan, epoch, first = self.plan, self._epoch, self._step
        view = views.view_of(epoch, plan.views) if plan.train else 0
        row_N = self._order(epoch, view)
        # One copy per epoch: a copy per batch would make the host wait for the device.
        index_N = torch.from_numpy(self.index_N[row_N]).to(plan.device)
        label_N = torch.from_numpy(self.image_set.label_N[self.index_N[row_N]]).to(plan.device)
        spans = self._spans[first:]
        further = FurtherViews(plan, view, label_N, spans, first) if plan.train and plan.streams else None
        reads = further.reads if further else [Read(start, stop, stop - start) for start, stop, _ in spans]
        row_M = row_N[further.order_M] if further else row_N
        for step, (span, pixels_BHWC) in enumerate(zip(spans, self._pixels(row_M, view, reads), strict=True)):
            after = first + step + 1
            self._epoch, self._step = (epoch, after) if after < len(self) else (epoch + 1, 0)
            image_MCHW = self._normalise(pixels_BHWC)
            batch = Batch(
                image_BCHW=image_MCHW[: span.stop - span.start] if further else image_MCHW,
                label_B=label_N[span.start : span.stop],
                index_B=index_N[span.start : span.stop],
                view=view,
                share=span.share,
            )
            if further:
                further.add(step, batch, image_MCHW)
            yield batch
        if not spans:
            self._epoch, self._step = epoch + 1, 0

    def _pixels(self, row_M: NDArray[np.int64], view: int, reads: Sequence[Read]) -> Iterator[Tensor]:
        """For each read (entries of row_M, which are rows of index_N): uint8 [B, H, W, 3] on the device.

        Behind the rows that are read come their views by operations: for each such stream, `read.own` rows.
        """
        raise NotImplementedError
