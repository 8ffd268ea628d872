"""Processes that signal themselves, or hang, at a place of the test's choice; started by ranks.start."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ranks


def run(module: Any, argv: list[str]) -> None:
    """An entry point as its script runs it: listening from the first line on."""
    from pipeline import cli, signals

    goes_on = getattr(module, "FAILURES", None) is not None
    signals.listen(signals.GOES_ON, signals.EXIT_CODE) if goes_on else signals.listen()
    sys.argv = [module.__name__, *argv]
    cli.run(module.main, module.help_text, getattr(module, "FAILURES", {}))


def at_call(owner: Any, name: str, number: int, act: Callable[[], object], *, rank: int = 0) -> None:
    """`act` before call `number` (from 1) of owner.name, on one rank."""
    real, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and os.environ.get("RANK", "0") == str(rank):
            act()
        return real(*args, **options)

    setattr(owner, name, wrapped)


def in_evaluation(argv: list[str], number: int, rank: int) -> None:
    """Training that hears a signal as it begins to evaluate its second epoch."""
    from pipeline.engine.evaluate import Evaluation

    at_call(Evaluation, "_count_all", 2, lambda: os.kill(os.getpid(), number), rank=rank)
    ranks.train(argv)


def while_building(tool: str, argv: list[str], number: int) -> None:
    """An entry point that hears a signal as it reads the data."""
    import importlib

    module = importlib.import_module(tool)
    owner = module if hasattr(module, "image_set") else importlib.import_module("pipeline.builders.run")
    at_call(owner, "image_set", 1, lambda: os.kill(os.getpid(), number))
    run(module, argv)


def reads_for_ever(argv: list[str], call: int, say: float) -> None:
    """Training whose read number `call` does not end."""
    from pipeline import train
    from pipeline.datasets import image_set, slow_reads

    multiprocessing.set_start_method("fork", force=True)  # workers inherit what is put in here
    slow_reads.SAY = say
    at_call(image_set, "read_plain", call, lambda: time.sleep(1000))
    run(train, argv)


def in_first_stage_or_pass(argv: list[str], owner: str, name: str) -> None:
    """Training that hears SIGTERM as it calls owner.name."""
    import importlib

    from pipeline import train

    at_call(importlib.import_module(owner), name, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run(train, argv)


def own_words(words_of_rank: list[list[str]]) -> None:
    """Training with words of each rank's own."""
    ranks.train(words_of_rank[int(os.environ["RANK"])])


def holds(seconds: float) -> None:
    """A training whose step takes too long."""
    from pipeline import signals

    signals.STEP = seconds
    listener = signals.listen(signals.GOES_ON, signals.EXIT_CODE)
    listener.holding = True
    print("ready", flush=True)
    while not listener._first:
        time.sleep(0.01)
    print("heard", flush=True)
    time.sleep(1000)


def wait_for(log: Path, text: str, seconds: float = 60) -> None:
    """Until `text` stands in the log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"no {text!r} in {log}: {log.read_text() if log.exists() else 'no log'}")
