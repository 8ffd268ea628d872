"""Epoch arithmetic common to all loaders: which samples are batch (epoch, step) of a rank, and which comes next."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import views
from pipeline.contracts import Batch, BatchInfo, Draft, InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.datasets.replacing import Replaced, ReplacingSet
from pipeline.datasets.slow_reads import watch
from pipeline.loaders.config import STEP_KINDS, LoaderConfig
from pipeline.loaders.extra_views import FurtherViews, Read, Span
from pipeline.loaders.pixels import Normalise, Room


class Reads(NamedTuple):
    """What one epoch reads, from step `first` on, whoever decodes it.

    size: side of its images in pixels; index_M: positions in the set, in the order in which they are read; reads: the
    batches among them.
    """

    epoch: int
    first: int
    view: int
    size: int
    index_M: NDArray[np.int64]
    reads: Sequence[Read]


class Epoch(NamedTuple):
    """An epoch that is ready to be read: index_N (also in the host's memory) and label_N, in the order of the epoch."""

    todo: Reads
    host_index_N: Tensor
    index_N: Tensor
    label_N: Tensor
    further: FurtherViews | None


class EpochLoader:
    """A contracts.Loader without pixels; a subclass says where they come from.

    Training: the order is shuffled each epoch, and each rank takes its part of each global batch. Evaluation: the set
    is divided among the ranks, every sample once, in natural order; ranks may differ in their number of batches.
    With `drafts` set, a subclass that can leaves the pixels of plain batches to whoever takes the step (Batch.draft).
    A subclass with looks_ahead may ask `following` for the next epoch, so that nothing idles between epochs.
    Raises InputError where a global batch has fewer images than there are ranks.
    """

    replayable = True
    looks_ahead = False
    drafts = False
    section: str | None = None  # of the data's keys: none of its own

    def __init__(self, image_set: ImageSet, config: LoaderConfig) -> None:
        self.image_set = image_set
        self.config = config
        index_N = np.arange(len(image_set)) if config.index_N is None else np.asarray(config.index_N, dtype=np.int64)
        self.num_samples = len(index_N)
        self._check(index_N)
        watch(config.data.read_timeout)
        first, last = (
            (0, self.num_samples) if config.train else views.rank_slice(self.num_samples, config.rank, config.ranks)
        )
        # What this rank draws from: all positions in training, its own part of them in evaluation.
        self.index_N: NDArray[np.int64] = index_N[first:last]
        self._spans = [self._span(start) for start in range(0, last - first, config.batch_size)]
        self._epoch = 0
        self._step = 0
        self._normalise = Normalise(config.data.mean, config.data.std, config.channels_last, config.device)
        self._ahead: dict[int, Future[Epoch]] = {}  # by epoch: more than one where epochs are a few batches short
        self._thread = ThreadPoolExecutor(1)  # no thread before its first task

    def _check(self, index_N: NDArray[np.int64]) -> None:
        n, config = len(index_N), self.config
        name = f"{self.image_set.name}/{self.image_set.split}"
        if n == 0:
            raise InputError(f"{name}: there are no images")
        if index_N.min() < 0 or index_N.max() >= len(self.image_set):
            raise InputError(f"{name}: some positions lie outside its {len(self.image_set)} images")
        smallest = min(config.batch_size, n % config.batch_size or config.batch_size)
        if config.train and smallest < config.ranks:
            raise InputError(
                f"{name}: {n} images in batches of {config.batch_size} leave a batch of {smallest} for {config.ranks} "
                "ranks, and every rank needs an image of every batch: change data.batch_size or the number of ranks"
            )

    def _span(self, start: int) -> Span:
        """This rank's part of the batch that begins at row `start`."""
        config, rows = self.config, min(self.config.batch_size, len(self.index_N) - start)
        if not config.train:
            return Span(start, start + rows, 1.0)
        a, b = views.rank_slice(rows, config.rank, config.ranks)
        return Span(start + a, start + b, config.ranks * (b - a) / rows)

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
        config, rows = self.config, len(self.index_N)
        if not config.train:
            return np.arange(rows)
        # Of the view where who is in a batch matters: a view then shows the same whatever the run.
        key = (config.data.seed, view) if config.drawn_by(STEP_KINDS) else (config.seed, epoch)
        return views.epoch_order(config.data.order, *key, rows)

    def _prepare(self, epoch: int, first: int = 0) -> Epoch:
        config = self.config
        view = views.view_of(epoch, config.views) if config.train else 0
        row_N = self._order(epoch, view)
        # One copy per epoch: a copy per batch would make the host wait for the device.
        host_index_N = torch.from_numpy(self.index_N[row_N])
        index_N = host_index_N.to(config.device)
        label_N = torch.from_numpy(self.image_set.label_N[self.index_N[row_N]]).to(config.device)
        spans = self._spans[first:]
        size = config.size_at(epoch)
        drawn = config.train and config.streams
        further = FurtherViews(config, size, view, label_N, spans, first) if drawn else None
        reads = further.reads if further else [Read(start, stop, stop - start) for start, stop, _ in spans]
        row_M = row_N[further.order_M] if further else row_N
        todo = Reads(epoch, first, view, size, self.index_N[row_M], reads)
        return Epoch(todo, host_index_N, index_N, label_N, further)

    def _prepared(self, epoch: int, first: int) -> Epoch:
        """From the thread that looked ahead, where it was asked for this very epoch."""
        ahead = self._ahead.pop(epoch, None) if first == 0 else None
        self._ahead = {later: ready for later, ready in self._ahead.items() if later > epoch}
        return self._prepare(epoch, first) if ahead is None else ahead.result()

    def following(self, todo: Reads) -> Reads | None:
        """What the epoch after `todo` reads; None in evaluation."""
        if not self.config.train:
            return None
        self._look_ahead(todo.epoch + 1)
        return self._ahead[todo.epoch + 1].result().todo

    def _look_ahead(self, epoch: int) -> None:
        if epoch not in self._ahead:
            self._ahead[epoch] = self._thread.submit(self._prepare, epoch)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._epoch, self._step
        ready = self._prepared(epoch, first)
        todo, further, spans = ready.todo, ready.further, self._spans[first:]
        room = Room()
        for step, (span, made) in enumerate(zip(spans, self._pixels(todo), strict=True)):
            after = first + step + 1
            self._epoch, self._step = (epoch, after) if after < len(self) else (epoch + 1, 0)
            if self.looks_ahead and self.config.train:
                self._look_ahead(epoch + 1)  # after the first batch: worker processes are forked before it
            draft = made if isinstance(made, Draft) else None
            image_MCHW = torch.empty(0) if isinstance(made, Draft) else self._normalise(made, room)
            batch = Batch(
                image_BCHW=image_MCHW[: span.stop - span.start] if further else image_MCHW,
                draft=() if draft is None else draft.tensors,
                label_B=ready.label_N[span.start : span.stop],
                index_B=ready.index_N[span.start : span.stop],
                info=BatchInfo(
                    view=todo.view,
                    share=span.share,
                    host_index_B=ready.host_index_N[span.start : span.stop],
                    make=None if draft is None else draft.make,
                ),
            )
            if further:
                further.add(step, batch, image_MCHW)
            yield batch
        if not spans:
            self._epoch, self._step = epoch + 1, 0

    @property
    def pixels(self) -> str:
        """Names the pixels that come of a view: two loaders that say the same show the same, bit for bit."""
        return self.config.data.decode if self.config.windows else "exact"

    def note_replaced(self, found: Mapping[int, Replaced]) -> None:
        """Tells this process's set what another process found to be unreadable."""
        if found and isinstance(self.image_set, ReplacingSet):
            self.image_set.merge(found)

    @property
    def replaced(self) -> dict[int, dict[str, Any]]:
        """Images known to be unreadable, by position: split, index, file, class, what is shown instead, and why."""
        images = self.image_set
        if not isinstance(images, ReplacingSet):
            return {}
        return {
            index: {
                "split": images.split,
                "index": index,
                "file": images.paths[index],
                "class": images.class_names[int(images.label_N[index])],
                "shown": images.paths[other.shown],
                "reason": other.reason,
            }
            for index, other in sorted(images.replaced.items())
        }

    def _pixels(self, todo: Reads) -> Iterator[Tensor | Draft]:
        """For each of todo.reads (a part of todo.index_M): uint8 [B, todo.size, todo.size, 3] on the device.

        Behind the images that are read come their views by operations: for each such stream, `read.own` images.
        """
        raise NotImplementedError
