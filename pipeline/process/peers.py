"""What the ranks of a job tell each other about their ends, so that a reason is said once and by whom it is.

A rank that fails by itself leaves its reason in the store of the rendezvous before it ends. The others then meet a
closed connection: they look here for why, and end in the same way. Imports the standard library only.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

WAIT = 2.0  # seconds for another rank to say its reason
SAME = 5.0  # for rank 0 to meet what this rank has met: busy machines are seconds apart
PAUSE = 0.02


class End(NamedTuple):
    """How a rank ended: exit code and the lines that it has to say."""

    code: int
    text: str


class Peers:
    """store: torch's, that all ranks reach; rank: of this process among `ranks`."""

    def __init__(self, store: Any, rank: int, ranks: int) -> None:
        self.store, self.rank, self.ranks = store, rank, ranks
        self._gone = False  # the store, with its process: torch prints a page each time it is asked nevertheless

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._gone = True

    def tell(self, end: End) -> None:
        """Leaves how this rank ends. Nothing happens where the store is gone."""
        with self._asking():
            if not self._gone:
                self.store.set(_key(self.rank), json.dumps(end))

    def ended(self, rank: int) -> End | None:
        """How `rank` ended; None where it has not said so, or nobody can be asked any more."""
        with self._asking():
            if not self._gone and self.store.check([_key(rank)]):
                return End(*json.loads(self.store.get(_key(rank))))
        return None

    def first_ended(self) -> tuple[int, End] | None:
        """The lowest other rank that has ended, and how."""
        for rank in range(self.ranks):
            if rank != self.rank and (end := self.ended(rank)):
                return rank, end
        return None

    def is_new(self, end: End) -> bool:
        """Whether rank 0 does not say the same."""
        deadline = time.monotonic() + SAME
        while not self._gone and time.monotonic() < deadline:
            if (said := self.ended(0)) is not None:
                return said.text != end.text
            time.sleep(PAUSE)
        return True

    def wait_for_a_reason(self) -> tuple[int, End] | None:
        """Of another rank, that has ended or is about to say why."""
        deadline = time.monotonic() + WAIT
        while (found := self.first_ended()) is None and not self._gone and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return found

    def leave(self) -> None:
        """This rank asks no more. The store may end with rank 0: it waits for the others, `WAIT` seconds at most."""
        if self._gone:
            return
        with self._asking():
            self.store.set(f"stillhouse/left/{self.rank}", "1")
            deadline = time.monotonic() + WAIT
            others = [f"stillhouse/left/{rank}" for rank in range(1, self.ranks)]
            while self.rank == 0 and time.monotonic() < deadline and not self.store.check(others):
                time.sleep(PAUSE)


def _key(rank: int) -> str:
    return f"stillhouse/ended/{rank}"


_peers: Peers | None = None
_met = False


def meet(store: Any, rank: int, ranks: int) -> None:
    """The ranks of this job have found each other."""
    global _peers, _met
    _peers, _met = Peers(store, rank, ranks), True


def part() -> None:
    """The group has ended in order."""
    global _peers
    _peers = None


def have_met() -> bool:
    """Whether this process has ever been one of several ranks."""
    return _met


def current() -> Peers | None:
    """None on one rank, and before the ranks have met."""
    return _peers


def this_rank() -> int:
    """As the launcher says; 0 where it says nothing that makes sense."""
    said = os.environ.get("RANK", "0")
    return int(said) if said.isdecimal() else 0


def first_on_its_node() -> bool:
    """Whether nobody on this machine has a lower rank: what a command line or a file of it says wrong is then said
    once on each machine."""
    return this_rank() == 0 or os.environ.get("LOCAL_RANK", "") == "0"
