"""What the steps of a run ran as, all its processes told in turn: for its checkpoints and its summary."""

from collections.abc import Callable
from typing import Any

from pipeline.config import RuntimeConfig
from pipeline.engine.distributed.parallel import World, as_graph
from pipeline.engine.graph.cache import PLAINLY

OFF, FALLBACK, THEN = "off", "fallback", ", then "


def in_turn(earlier: str | None, own: str | None) -> str | None:
    """What a run's processes did, one after the other; `own`: the present one."""
    told = [] if earlier is None else earlier.split(THEN)
    if own is not None and own not in told:
        told.append(own)
    return THEN.join(told) or None


class WhatRan:
    """note: told why steps are plain ones; made: gives what runs of what is recorded, None before anything is. taken:
    whether this process has taken a step. earlier_graph, earlier_tf32: of the run's earlier processes."""

    def __init__(
        self, runtime: RuntimeConfig, world: World, note: Callable[[str], Any], made: Callable[[], str | None]
    ) -> None:
        self.runtime, self.world, self.note, self.made = runtime, world, note, made
        self.taken = False
        self.earlier_graph: str | None = None
        self.earlier_tf32: str | None = None
        self._reasons: list[str] = []

    def fall_back(self, reason: str, instead: str = PLAINLY) -> None:
        """Keeps why steps are not what was asked for, and says it once."""
        if reason not in self._reasons:
            self._reasons.append(reason)
            self.say(reason, instead)

    def say(self, reason: str, instead: str) -> None:
        """What runs otherwise than was asked for."""
        self.note(f"runtime.compile={self.runtime.compile}: {reason}; steps {instead}")

    @property
    def graph(self) -> str | None:
        """What steps ran as; None while nothing is recorded yet."""
        return in_turn(self.earlier_graph, self._own_graph())

    @property
    def tf32(self) -> str | None:
        """Where TF32 was in force; None before there was a step."""
        return in_turn(self.earlier_tf32, self.world.tf32 if self.taken else None)

    def _own_graph(self) -> str | None:
        if not self.taken:
            return None
        if not as_graph(self.runtime):
            return OFF
        return f"{FALLBACK}: {self._reasons[0]}" if self._reasons else self.made()

    def finish(self) -> str:
        """`graph` at the end of the run, for its summary."""
        if self.graph is None and as_graph(self.runtime):
            self.taken = True
            self.fall_back("no batch of one shape came often enough to be recorded", "ran plainly")
        return self.graph or OFF
