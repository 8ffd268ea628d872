"""A function of tensors that is recorded once for each shape of them and then replayed."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.recorders import Body, NotCapturable, Recorder
from pipeline.engine.untouched import State

Tensors = Mapping[str, Tensor]
MOST = 64  # shapes that are recorded; those beyond run plainly


@dataclass
class _Slot:
    """Where the tensors of one shape lie, how often it came, and its graph."""

    places: dict[str, Tensor]
    seen: int = 0
    replay: Body | None = None

    def load(self, tensors: Tensors) -> None:
        torch._foreach_copy_(list(self.places.values()), list(tensors.values()))


class Recorded:
    """Calls function(tensors), which returns nothing, through `recorder`; plainly where that is None.

    state: the tensors that the function changes.
    fallback: told once, in words, where the function turns out to be none that can be recorded; it then runs plainly.
    """

    def __init__(
        self,
        function: Callable[[Tensors], None],
        recorder: Recorder | None,
        fallback: Callable[[str], Any],
        state: State,
    ) -> None:
        self.function, self.recorder, self.fallback, self.state = function, recorder, fallback, state
        self._slots: dict[Hashable, _Slot] = {}

    @property
    def graphs(self) -> int:
        """Number of shapes that are recorded."""
        return sum(slot.replay is not None for slot in self._slots.values())

    def __call__(self, tensors: Tensors, constants: Hashable = (), *, short: bool = False) -> bool:
        """One run. constants: numbers of the host that the function uses; short: it is one on fewer rows than most.
        Returns whether time went into recording."""
        recorder = self.recorder
        if recorder is None:
            self.function(tensors)
            return False
        slot = self._slot(tensors, constants)
        slot.load(tensors)
        slot.seen += 1
        if slot.replay is not None:
            slot.replay()
            return False
        if slot.seen <= recorder.warm_up or (short and not recorder.short_batches) or self.graphs >= MOST:
            recorder.run(lambda: self.function(slot.places))
            return False
        return self._record(recorder, slot)

    def _slot(self, tensors: Tensors, constants: Hashable) -> _Slot:
        key = (constants, *((name, t.shape, t.dtype, t.stride()) for name, t in tensors.items()))
        if key not in self._slots:
            self._slots[key] = _Slot({name: torch.empty_like(t) for name, t in tensors.items()})
        return self._slots[key]

    def _record(self, recorder: Recorder, slot: _Slot) -> bool:
        try:
            slot.replay = recorder.record(lambda: self.function(slot.places), self.state)
        except NotCapturable as error:
            self.recorder = None
            self.fallback(str(error))
            if not error.ran:
                self.function(slot.places)
        return True
