"""A function of tensors that is recorded once for each shape of them and then replayed."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.engine.graph.backends import Fallback, NotCapturable, Recorder, Replay
from pipeline.engine.graph.dry_run import State

Tensors = Mapping[str, Tensor]
PLAINLY = "run plainly"
MOST = 64  # shapes that have a place; those beyond run plainly, as they come


@dataclass
class _Slot:
    """Where the tensors of one shape lie, how often it came, and its graph."""

    places: dict[str, Tensor]
    seen: int = 0
    replay: Replay | None = None

    def load(self, tensors: Tensors) -> None:
        torch._foreach_copy_(list(self.places.values()), list(tensors.values()))


class Recorded:
    """Calls function(tensors), which returns nothing, through `recorder`; plainly where that is None.

    state: the tensors that the function changes.
    fallback: told why, and what is done instead, where the function turns out to be none that can be recorded; it then
    runs plainly. forget: drops what a run that was broken off has left behind.
    """

    def __init__(
        self,
        function: Callable[[Tensors], None],
        recorder: Recorder | None,
        fallback: Fallback,
        state: State,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.function, self.recorder, self.fallback = function, recorder, fallback
        self.state, self.forget = state, forget
        self.graphs = 0  # shapes that are recorded
        self._slots: dict[Hashable, _Slot] = {}

    def __call__(self, tensors: Tensors, constants: Hashable = (), *, short: bool = False) -> bool:
        """One run. constants: numbers of the host that the function uses; short: it is one on fewer rows than most.
        Returns whether time went into recording."""
        recorder = self.recorder
        if recorder is None:
            self.function(tensors)
            return False
        slot = None if short and not recorder.short_batches else self._slot(tensors, constants)
        if slot is None:
            recorder.run(lambda: self.function(tensors))
            return False
        slot.load(tensors)
        slot.seen += 1
        if slot.replay is not None:
            return slot.replay()
        if slot.seen <= recorder.warm_up:
            recorder.run(lambda: self.function(slot.places))
            return False
        self._record(recorder, slot)
        return True

    def _slot(self, tensors: Tensors, constants: Hashable) -> _Slot | None:
        """None for a shape that finds no place any more."""
        key = (constants, *((name, t.shape, t.dtype, t.stride()) for name, t in tensors.items()))
        if key not in self._slots and len(self._slots) < MOST:
            self._slots[key] = _Slot({name: torch.empty_like(t) for name, t in tensors.items()})
        return self._slots.get(key)

    def _record(self, recorder: Recorder, slot: _Slot) -> None:
        try:
            slot.replay = recorder.record(lambda: self.function(slot.places), self.state, self.fallback)
            self.graphs += 1
        except NotCapturable as error:
            self.recorder = None
            self.fallback(str(error), PLAINLY)
            if not error.ran:
                self.forget()
                recorder.run(lambda: self.function(slot.places))
