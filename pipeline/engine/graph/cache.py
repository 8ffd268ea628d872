"""A function of tensors that is recorded once for each shape of them and then replayed."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.engine.graph.backends import Fallback, NotCapturable, Recorder, Replay
from pipeline.engine.graph.dry_run import State

Inputs = TypeVar("Inputs")  # a pytree: its leaves are tensors
PLAINLY = "run plainly"
MOST = 64  # shapes that have a place; those beyond run plainly, as they come


@dataclass
class _Slot(Generic[Inputs]):
    """Where the tensors of one shape lie, the function's inputs made of them, how often it came, and its graph."""

    places: list[Tensor]
    inputs: Inputs
    seen: int = 0
    replay: Replay | None = None


class GraphCache(Generic[Inputs]):
    """Calls function(inputs), which returns nothing, through `recorder`; plainly where that is None.

    state: the tensors that the function changes.
    fallback: told why, and what is done instead, where the function turns out to be none that can be recorded; it then
    runs plainly. forget: drops what a run that was broken off has left behind.
    """

    def __init__(
        self,
        function: Callable[[Inputs], None],
        recorder: Recorder | None,
        fallback: Fallback,
        state: State,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.function, self.recorder, self.fallback = function, recorder, fallback
        self.state, self.forget = state, forget
        self.graphs = 0  # shapes that are recorded
        self._slots: dict[Hashable, _Slot[Inputs]] = {}

    @property
    def makes(self) -> str | None:
        """What runs, in one word; None before anything is recorded."""
        return self.recorder.makes if self.recorder is not None and self.graphs else None

    def __call__(self, inputs: Inputs, constants: Hashable = (), *, short: bool = False) -> bool:
        """One run. constants: numbers of the host that the function uses; short: it is one on fewer rows than most.
        Returns whether time went into recording."""
        recorder = self.recorder
        if recorder is None:
            self.function(inputs)
            return False
        leaves, spec = pytree.tree_flatten(inputs)
        slot = None if short and not recorder.short_batches else self._slot(leaves, spec, constants)
        if slot is None:
            own = pytree.tree_unflatten(leaves, spec)
            recorder.run(lambda: self.function(own))
            return False
        torch._foreach_copy_(slot.places, leaves)
        slot.seen += 1
        if slot.replay is not None:
            return slot.replay()
        if slot.seen <= recorder.warm_up:
            recorder.run(lambda: self.function(slot.inputs))
            return False
        self._record(recorder, slot)
        return True

    def _slot(self, leaves: list[Tensor], spec: pytree.TreeSpec, constants: Hashable) -> _Slot[Inputs] | None:
        """None for a shape that finds no place any more."""
        key = (constants, spec, *((t.shape, t.dtype, t.stride()) for t in leaves))
        if key not in self._slots and len(self._slots) < MOST:
            places = [torch.empty_like(t) for t in leaves]
            self._slots[key] = _Slot(places, pytree.tree_unflatten(places, spec))
        return self._slots.get(key)

    def _record(self, recorder: Recorder, slot: _Slot[Inputs]) -> None:
        try:
            slot.replay = recorder.record(lambda: self.function(slot.inputs), self.state, self.fallback)
            self.graphs += 1
        except NotCapturable as error:
            self.recorder = None
            self.fallback(str(error), PLAINLY)
            if not error.ran:
                self.forget()
                recorder.run(lambda: self.function(slot.inputs))
