"""The further views of an epoch: which rows are read for them, and how mixed ones are made of the pixels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import views
from pipeline.contracts import Batch, Mix, Stream
from pipeline.loaders.config import PAIR_KINDS, STEP_KINDS, LoaderConfig
from pipeline.utils.mixing import cutmix, cutout, mixup, own_share


class Span(NamedTuple):
    """Rows start..stop of an epoch's order, and their weight: one rank's part of one global batch."""

    start: int
    stop: int
    share: float


class Read(NamedTuple):
    """Entries start..stop of the rows to read for one batch: `own` images, then partners that other ranks have."""

    start: int
    stop: int
    own: int


class Draws(NamedTuple):
    """Of a mixed stream: weight float32 [S] of the own image, box int64 [S, 4] ([S, 0] for mixup), by step."""

    weight_S: Tensor
    box_S4: Tensor


def _mixup_draws(seed: int, stream: Stream, view: int, step_S: NDArray[np.int64], _: int) -> Draws:
    lambda_S = views.mix_lambdas(seed, view, step_S, stream.alpha)
    return Draws(torch.from_numpy(lambda_S).float(), torch.empty(len(step_S), 0, dtype=torch.int64))


def _with_shares(box_S4: NDArray[np.int64], size: int) -> Draws:
    box = torch.from_numpy(box_S4)
    return Draws(own_share(box.T, size, size).float(), box)


def _cutmix_draws(seed: int, stream: Stream, view: int, step_S: NDArray[np.int64], size: int) -> Draws:
    lambda_S = views.mix_lambdas(seed, view, step_S, stream.alpha)
    return _with_shares(views.mix_boxes(seed, view, step_S, lambda_S, size, size), size)


def _cutout_draws(seed: int, stream: Stream, view: int, step_S: NDArray[np.int64], size: int) -> Draws:
    return _with_shares(views.cutout_boxes(seed, view, step_S, size, size, stream.size), size)


class Mixer(NamedTuple):
    """draw: (seed, stream, view, steps, size) -> Draws on the host; mix: (own images, partners', 0-d weight, box)."""

    draw: Callable[[int, Stream, int, NDArray[np.int64], int], Draws]
    mix: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


_MIXERS = {
    "mixup": Mixer(_mixup_draws, lambda own, partner, weight, _: mixup(own, partner, weight)),
    "cutmix": Mixer(_cutmix_draws, lambda own, partner, _, box: cutmix(own, partner, box)),
    "cutout": Mixer(_cutout_draws, lambda own, _, __, box: cutout(own, box)),
}


def _partners(config: LoaderConfig, view: int, span: Span, step: int, samples: int) -> NDArray[np.int64]:
    """Where the partners of a span lie in the order of the epoch: each in the same global batch, on any rank."""
    start = step * config.batch_size
    rows = min(config.batch_size, samples - start)
    return start + views.partners(config.data.seed, view, step, rows)[span.start - start : span.stop - start]


def _to_read(span: Span, partner_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(places in the order to read: the own ones, then foreign partners; where among them each partner comes)."""
    own = span.stop - span.start
    foreign = (partner_B < span.start) | (partner_B >= span.stop)
    at_B = np.where(foreign, own + np.cumsum(foreign) - 1, partner_B - span.start)
    return np.concatenate([np.arange(span.start, span.stop), partner_B[foreign]]), at_B


class FurtherViews:
    """One rank's part of the further views of one epoch, from `first_step` on: `spans` are those of its steps.

    Everything is drawn here, on the host, and copied to the device once. order_M: places in the order of the epoch to
    read, `reads` being the batches in it. size: of the images, pixels of a side. label_N: labels in the order of the
    epoch, on the device.
    """

    def __init__(
        self, config: LoaderConfig, size: int, view: int, label_N: Tensor, spans: Sequence[Span], first_step: int
    ) -> None:
        self._config = config
        self._mixed, self._operated = config.drawn_by(STEP_KINDS), config.drawn_by(views.OP_KINDS)
        step_S = np.arange(first_step, first_step + len(spans))
        self._draws: dict[str, Draws] = {}
        for name, stream in self._mixed.items():
            drawn = _MIXERS[stream.kind].draw(config.data.seed, stream, view, step_S, size)
            self._draws[name] = Draws(*(table.to(config.device) for table in drawn))
        partner_SB = [np.arange(span.start, span.stop) for span in spans]
        if config.drawn_by(PAIR_KINDS):
            partner_SB = [
                _partners(config, view, span, step, len(label_N))
                for span, step in zip(spans, step_S.tolist(), strict=True)
            ]
        self._place(spans, partner_SB, label_N)

    def _place(self, spans: Sequence[Span], partner_SB: list[NDArray[np.int64]], label_N: Tensor) -> None:
        read_SM, at_SB = [], []
        self.reads: list[Read] = []
        start = 0
        for span, partner_B in zip(spans, partner_SB, strict=True):
            read_M, at_B = _to_read(span, partner_B)
            self.reads.append(Read(start, start + len(read_M), span.stop - span.start))
            start += len(read_M)
            read_SM.append(read_M)
            at_SB.append(at_B)
        nothing = np.empty(0, dtype=np.int64)
        self.order_M = np.concatenate([nothing, *read_SM])
        rows = [read.own for read in self.reads]
        device = self._config.device
        self._at_SB = torch.from_numpy(np.concatenate([nothing, *at_SB])).to(device).split(rows)
        label_P = label_N[torch.from_numpy(np.concatenate([nothing, *partner_SB])).to(device)]
        self._label_SB = label_P.split(rows)

    def add(self, step: int, batch: Batch, image_MCHW: Tensor) -> None:
        """Fills in batch.streams and batch.mixes of the step (0 = first_step).

        image_MCHW: normalised pixels, those that were read, then the own rows of each operated stream in turn.
        """
        start, stop, own = self.reads[step]
        firsts = range(stop - start, len(image_MCHW), own)
        further = {name: image_MCHW[a : a + own] for name, a in zip(self._operated, firsts, strict=True)}
        if self._mixed:
            # Not index_select: it would turn channels_last memory into plain memory.
            partner_BCHW = image_MCHW[self._at_SB[step]]
        for name, stream in self._mixed.items():
            weight, box = (table[step] for table in self._draws[name])
            further[name] = _MIXERS[stream.kind].mix(batch.image_BCHW, partner_BCHW, weight, box)
            label_B = self._label_SB[step] if stream.kind in PAIR_KINDS else batch.label_B
            batch.mixes[name] = Mix(weight, label_B, box)
        batch.streams.update({name: further[name] for name in self._config.streams})
