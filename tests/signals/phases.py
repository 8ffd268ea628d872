"""Trainings and writers that say HERE at a place of their work and stay there long enough for a signal to meet them."""

import importlib
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import cache_jobs
import stopping

HERE = "HERE"
FOR_EVER = 1000.0


def here(seconds: float = FOR_EVER) -> None:
    """Says so, and lets the time pass. Past the main thread's prints, which may be of a thread or worker."""
    os.write(1, f"{HERE}\n".encode())
    time.sleep(seconds)


def slow(owner: Any, name: str, number: int, seconds: float) -> None:
    """owner.name takes so much longer from call `number` on, and says HERE at it."""
    real, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            here(seconds)
        elif calls[0] > number:
            time.sleep(seconds)
        return real(*args, **options)

    setattr(owner, name, wrapped)


class Place(NamedTuple):
    """owner.name (owner: module or module:Class) is slow from call `number` on."""

    owner: str
    name: str
    number: int
    seconds: float


def run(tool: str, argv: list[str], place: Place, compiled: Path) -> None:
    """An entry point that is slow at a place. compiled: folder for what torch compiles; empty, so that it does."""
    multiprocessing.set_start_method("fork", force=True)  # workers inherit what is put in here
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)
    module, _, cls = place.owner.partition(":")
    found = importlib.import_module(module)
    slow(getattr(found, cls) if cls else found, place.name, place.number, place.seconds)
    enter(tool, argv)


def run_plain(tool: str, argv: list[str], compiled: Path) -> None:
    """The same command, undisturbed."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)
    enter(tool, argv)


def enter(tool: str, argv: list[str]) -> None:
    """As the script does, which listens before it is imported; a cache in small parts, as cache_jobs writes it."""
    from pipeline import signals

    module = importlib.import_module(tool)
    if tool.endswith("cache_teacher"):
        signals.listen(signals.GOES_ON, signals.EXIT_CODE)
        cache_jobs.write(argv)
    else:
        stopping.run(module, argv)
