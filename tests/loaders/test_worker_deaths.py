"""A data worker that dies is named by one line, wherever its death is met; other errors stay what they are."""

import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_sharer
from pathlib import Path
from types import SimpleNamespace

import cli
import mini_cifar
import pinned_memory
import pytest
import ranks
import torch
from small_sets import array_set, augmented

from launch.jobs.slurm_state import SIGNS
from pipeline import cli as entry
from pipeline import train
from pipeline.contracts import InputError
from pipeline.engine.evaluate import Evaluation
from pipeline.loaders import LOADERS, worker_deaths
from pipeline.measure import decode
from pipeline.measure.yardsticks import guarded
from pipeline.process import machine_errors

SHOWN = (ConnectionResetError, ConnectionRefusedError, BrokenPipeError, EOFError, FileNotFoundError)
TOLD = "DataLoader worker (pid 12) is killed by signal: Killed. "


class Fetch:
    """Fetching what a worker handed over fails with `error` while torch still finds the worker alive, as its last
    moments are; it is gone for good where the loader looks for the second time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.number, self.pids = patch, signal.SIGKILL, list[int]()
        self.others = set(multiprocessing.active_children())
        self.error: type[Exception] = Exception

    def fails(self, error: type[Exception]) -> None:
        self.error = error
        self.patch.setattr(resource_sharer._ResourceSharer, "get_connection", self._connect)
        self.patch.setattr(worker_deaths, "sleep", self._dies)

    def _connect(self, ident: object) -> object:
        raise self.error("of the connection")

    def _dies(self, seconds: float) -> None:
        for child in set(multiprocessing.active_children()) - self.others:
            self.pids.append(child.pid or 0)
            os.kill(self.pids[-1], self.number)
            child.join()


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetch]:
    """Without SIGCHLD, by which torch would tell it at a moment of the kernel's choice."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    others = set(multiprocessing.active_children())
    yield Fetch(monkeypatch)
    monkeypatch.undo()
    gc.collect()  # loaders that an error's traceback has kept, with their workers: torch watches those no more
    for child in set(multiprocessing.active_children()) - others:
        child.kill()
        child.join()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("error", SHOWN)
def test_a_worker_that_dies_as_it_hands_over_is_named(error: type[Exception], fetch: Fetch) -> None:
    fetch.fails(error)
    with pytest.raises(RuntimeError) as raised:
        next(iter(LOADERS.get("torch")(array_set(), augmented(workers=1))))
    assert isinstance(raised.value.__cause__, error)
    said = machine_errors.known(raised.value)
    assert said == f"data worker {fetch.pids[0]} was killed: Killed (out of memory?)"
    assert next(meaning for pattern, meaning in SIGNS if re.search(pattern, said)).startswith("a data worker crashed")


def test_the_signal_is_known(fetch: Fetch) -> None:
    fetch.number = signal.SIGBUS
    fetch.fails(EOFError)
    with pytest.raises(RuntimeError) as raised:
        next(iter(LOADERS.get("torch")(array_set(), augmented(workers=1))))
    assert machine_errors.SHM in str(machine_errors.known(raised.value))


@pytest.mark.parametrize("error", SHOWN[:1])
def test_an_error_while_all_workers_live_is_as_it_was(
    error: type[Exception], fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.fails(error)
    monkeypatch.setattr(worker_deaths, "PATIENCE", 0.0)
    with pytest.raises(error, match="of the connection"):
        next(iter(LOADERS.get("torch")(array_set(), augmented(workers=1))))
    assert fetch.pids == []


@pytest.mark.parametrize("lives", [False, True])
def test_the_thread_that_pins_memory(lives: bool, tmp_path: Path) -> None:
    """torch only says that it ended, and Python prints a traceback; torch would ask for it every 5 s."""
    codes = ranks.finish(ranks.start(pinned_memory.fetch_with_a_thread, (lives,), 1, tmp_path / "log"))
    told = (tmp_path / "log.0").read_text()
    dead = r"RuntimeError DataLoader worker \(pid \d+\) is killed by signal: Killed\. \n"
    assert codes == [0] and re.fullmatch("ConnectionResetError of the connection\n" if lives else dead, told), told


class Unblocking:
    """A lock in whose taking SIGCHLD arrives."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.acquire, self.release, self.__exit__ = self.lock.acquire, self.lock.release, self.lock.__exit__

    def __enter__(self) -> bool:
        taken = self.lock.__enter__()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        return taken


def test_a_death_leaves_no_lock_behind(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's queues put behind a condition that was never given back was waited for, for ever."""
    kind = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(kind._try_get_data, "__defaults__", (0.05,))
    others = set(multiprocessing.active_children())
    batches = iter(LOADERS.get("torch")(array_set(), augmented(workers=1)))
    next(batches)
    [child] = set(multiprocessing.active_children()) - others
    os.kill(child.pid or 0, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid or 0, os.WEXITED | os.WNOWAIT)
    lock = Unblocking()
    with threading.Condition(lock):  # type: ignore[arg-type]
        assert lock.lock.locked()
    assert not lock.lock.locked()
    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid {child.pid}\) is killed by signal: Killed"):
        list(batches)


@pytest.mark.parametrize("phase", ["training", "evaluation"])
def test_a_run_ends_in_one_line(
    phase: str, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = mini_cifar.write(tmp_path / "data", train=16, test=8)
    real = Evaluation._count_all

    def evaluate(*given: object) -> object:
        fetch.fails(ConnectionResetError)
        return real(*given)

    if phase == "training":
        fetch.fails(ConnectionResetError)
    else:
        monkeypatch.setattr(Evaluation, "_count_all", evaluate)
    words = ["dataset=cifar100", f"data.root={data}", "model=resnet8", "data.loader=torch", "data.workers=1"]
    words += ["data.batch_size=8", f"run.dir={tmp_path}", "runtime.device=cpu", "log.tensorboard=false"]
    code, _, err = cli.call(train, words, capsys)
    assert code == 1 and re.fullmatch(r"error: data worker \d+ was killed: Killed \(out of memory\?\)\n", err), err


def test_a_death_is_no_fault_of_what_was_going_on() -> None:
    """torch raises it wherever the trainer stands, in what turns errors into others of its own too."""

    def dies() -> None:
        raise RuntimeError(TOLD)

    with pytest.raises(RuntimeError, match="pid 12"):
        guarded("ImageFolder", dies)
    try:
        try:
            dies()
        except RuntimeError:
            raise InputError("this file cannot be read") from None
    except InputError as error:
        end = entry.ending(error, {})
    assert end == (1, "error: data worker 12 was killed: Killed (out of memory?)")
    assert entry.ending(InputError("x"), {}) == (2, "error: x")


def test_what_falls_where_python_drops_errors_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A death in a destructor or a fork; and in a worker, that the trainer hangs up."""
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    monkeypatch.setattr(sys, "excepthook", lambda *given: seen.append(given[1]))
    worker_deaths._listen()
    worker_deaths.say_nothing_of_the_trainer()
    others = [SimpleNamespace(exc_value=RuntimeError("x")), SimpleNamespace(exc_value=ValueError(TOLD))]
    for args in [SimpleNamespace(exc_value=RuntimeError(TOLD)), *others]:
        sys.unraisablehook(args)
    defect = ValueError("x")
    for error in (ConnectionResetError(), EOFError(), defect):
        sys.excepthook(type(error), error, None)
    assert seen == [*others, defect]


def test_a_process_that_decodes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not waited for: the others stand at the barrier for two minutes."""
    before = multiprocessing.active_children()
    monkeypatch.setattr(decode, "LOOK", 0.05)
    monkeypatch.setitem(decode.DECODERS, "exact", lambda data: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal: Killed"):
        decode.decode_in([b""], "exact", 2, 0.1)
    assert set(multiprocessing.active_children()) <= set(before)
