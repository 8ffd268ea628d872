"""How the ranks of a job find each other: bounded, open to signals, and with a word where one does not come."""

import contextlib
import datetime
import os
import socket
import sys
import threading
import time
from concurrent.futures import Future
from typing import NamedTuple

import torch.distributed as dist

from pipeline.contracts import InputError
from pipeline.process import peers

LIMIT = 300.0  # seconds for all ranks to come: nodes that import from a network drive take minutes
SAY = 30.0  # until it is said who is missing
ANSWER = 20.0  # for the other end of a connection to answer as a store does
PAUSE = 0.05
LARGEST_PORT = 65535


class NotMet(Exception):
    """The ranks cannot form a group: one line on stderr, exit code 1."""


class Place(NamedTuple):
    """This process among the ranks, as its launcher says, and where they meet; host "" on one rank."""

    rank: int
    ranks: int
    local: int
    host: str = ""
    port: int = 0

    @property
    def hosts(self) -> bool:
        """Whether this process is the one that the others ask: rank 0, unless torchrun's agent is."""
        return self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _number(name: str, default: int | None, least: int, most: int) -> int:
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        said = f"{name}={text!r}" if text else f"{name} is not set"
        raise InputError(f"{said}, but the launcher has to give a number from {least} to {most}: start by torchrun")
    return int(text)


def place() -> Place:
    """What RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say; (0, 1) under plain python. Raises InputError
    where they make no sense."""
    ranks = _number("WORLD_SIZE", 1, 1, 1 << 20)
    rank = _number("RANK", None if ranks > 1 else 0, 0, ranks - 1)
    local = _number("LOCAL_RANK", 0, 0, 1 << 20)
    if ranks == 1:
        return Place(rank, ranks, local)
    host = os.environ.get("MASTER_ADDR", "")
    if not host:
        raise InputError(f"MASTER_ADDR is not set, but there are {ranks} ranks: start by torchrun")
    return Place(rank, ranks, local, host, _number("MASTER_PORT", None, 1, LARGEST_PORT))


def meet(at: Place) -> dist.Store:
    """The store of the group, once all ranks are there. Raises NotMet."""
    store = open_store(at, LIMIT)
    peers.meet(store, at.rank, at.ranks)
    store.set(f"stillhouse/here/{at.rank}", "1")
    _wait_for_all(at, store)
    return dist.PrefixStore("default_pg", store)


def open_store(at: Place, limit: float) -> dist.Store:
    """The store through which ranks exchange addresses and reasons; waits at most `limit` seconds for who hosts it."""
    try:
        if at.hosts:
            store = _store(at, hosts=True)
        else:
            _wait_for_host(at, limit)
            store = _store(at, hosts=False)
    except (dist.DistError, ValueError, TimeoutError) as error:
        reason = _first_line(error)
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            reason = "the port is in use (choose another MASTER_PORT)"
        elif not at.hosts:
            reason = "it answers, but not as the first rank of this job does"
        raise NotMet(f"no meeting at {at.host}:{at.port}: {reason}") from None
    store.set_timeout(datetime.timedelta(seconds=LIMIT))
    return dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _store(at: Place, *, hosts: bool) -> dist.TCPStore:
    """Made in a thread: a port that takes connections and does not answer would hold torch up for ever."""
    limit = datetime.timedelta(seconds=ANSWER)
    made: Future[dist.TCPStore] = Future()

    def make() -> None:
        try:
            made.set_result(
                dist.TCPStore(
                    at.host, at.port, at.ranks, hosts, timeout=limit, wait_for_workers=False, multi_tenant=hosts
                )
            )
        except Exception as error:
            made.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    return made.result(ANSWER)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _wait_for_host(at: Place, limit: float) -> None:
    """Until somebody listens; by short tries, between which signals are heard."""
    began, said = time.monotonic(), False
    while True:
        try:
            socket.create_connection((at.host, at.port), timeout=5).close()
            return
        except OSError as error:
            waited = time.monotonic() - began
            if waited > limit:
                raise NotMet(f"nobody at {at.host}:{at.port} within {limit:.0f} s: {error.strerror or error}") from None
            if waited > SAY and not said:
                said = _say(f"rank {at.rank} waits for rank 0 at {at.host}:{at.port}: {error.strerror or error}")
            time.sleep(10 * PAUSE if said else PAUSE)


def _wait_for_all(at: Place, store: dist.Store) -> None:
    began, said = time.monotonic(), False
    missing = list(range(at.ranks))
    group = peers.current()
    while missing := [rank for rank in missing if not store.check([f"stillhouse/here/{rank}"])]:
        waited, names = time.monotonic() - began, ", ".join(map(str, missing[:8]))
        if group is not None and (found := group.first_ended()):
            raise NotMet(f"rank {found[0]} ended before the ranks had met")
        if waited > LIMIT:
            raise NotMet(f"rank {names} of {at.ranks} did not come to {at.host}:{at.port} within {LIMIT:.0f} s")
        if waited > SAY and not said and at.rank == 0:
            said = _say(f"waiting for rank {names} of {at.ranks} at {at.host}:{at.port}")
        time.sleep(PAUSE)


def _say(text: str) -> bool:
    print(text, file=sys.stderr, flush=True)
    return True


def join_to_tell(seconds: float) -> None:
    """Joins the others' store where they are waiting for this rank, so that it can say why it does not come."""
    with contextlib.suppress(InputError, NotMet, OSError, RuntimeError):
        at = place()
        if at.ranks > 1 and not at.hosts:
            peers.meet(open_store(at, seconds), at.rank, at.ranks)
