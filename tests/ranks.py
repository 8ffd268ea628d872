"""Real processes without the cost of importing torch in each: a fork server that has imported everything once.

Each call is a fresh process with the environment that torchrun gives its workers; ranks are killed as a real job's are.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pipeline.train", "pipeline.evaluate", "preloaded"])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(function: Callable[..., None], arguments: tuple[object, ...], extra: dict[str, str], log: str) -> None:
    os.environ.update(extra)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    function(*arguments)


def start(
    function: Callable[..., None], arguments: tuple[object, ...], ranks: int, log: Path
) -> list[ForkServerProcess]:
    """`function(*arguments)` in `ranks` processes that form a group when there are several."""
    common = {"OMP_NUM_THREADS": "1"}
    if ranks > 1:
        common |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(ranks):
        extra = common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})
        process = CONTEXT.Process(target=_child, args=(function, arguments, extra, f"{log}.{rank}"))
        process.start()
        processes.append(process)
    return processes


def finish(processes: list[ForkServerProcess], seconds: float = 120) -> list[int | None]:
    """Exit codes. Kills what is still running after `seconds`."""
    for process in processes:
        process.join(seconds)
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def train(argv: list[str]) -> None:
    """pipeline/train.py with these words."""
    from pipeline import cli
    from pipeline import train as module

    sys.argv = ["train.py", *argv]
    cli.run(module.main, module.help_text, module.FAILURES)


def run_train(argv: list[str], ranks: int, log: Path, seconds: float = 120) -> tuple[list[int | None], str]:
    """(exit codes, what was printed) of a whole training."""
    codes = finish(start(train, (argv,), ranks, log), seconds)
    return codes, "".join(Path(f"{log}.{rank}").read_text() for rank in range(ranks))
