"""A selection of what seconds.py measures; and ranks whose launcher is gone."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import seconds
import stopping

from pipeline.process import peers

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import time
from pipeline import signals
signals.listen(signals.GOES_ON, signals.EXIT_CODE)
print("ready", flush=True)
time.sleep(60)
"""
LAUNCHER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {RANK!r}])
time.sleep(60)
"""
SELECTED = (
    ("read that hangs", "SIGINT"),
    ("first stage", "SIGUSR2"),
    ("teacher pass", "SIGTERM"),
    ("training step, two", "SIGINT"),
    ("evaluation, two", "SIGTERM"),
    ("checkpoint write", "SIGUSR2"),
    ("cache write, its disk", "SIGINT"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "name"), SELECTED)
def test_signals_end_each_phase_in_order_and_nothing_is_lost(phase: str, name: str, tmp_path: Path) -> None:
    said: list[object] = []
    assert seconds.main([f"phase={phase}", f"signal={name}", f"folder={tmp_path}"], said.append) == 0, said
    assert f"| {phase}" in str(said[-1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])  # torchrun does not listen to SIGUSR2
def test_ranks_stop_in_order_when_torchrun_is_gone(number: signal.Signals, tmp_path: Path) -> None:
    own = os.environ | {"TORCHELASTIC_RUN_ID": "x", "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("wb") as handle:
        launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], env=own, stdout=handle, stderr=handle)
    stopping.wait_for(log, "ready")
    launcher.send_signal(number)
    assert launcher.wait(20) == -number
    stopping.wait_for(log, "SIGTERM: stopped, nothing was left to save, the same command goes on", 20)


class GoneStore:
    """torch's store when its process has ended."""

    def __init__(self) -> None:
        self.asked = 0

    def check(self, keys: list[str]) -> bool:
        self.asked += 1
        raise ConnectionError("Broken pipe")

    set = get = check


def test_a_store_that_is_gone_is_asked_once() -> None:
    store = GoneStore()
    rank = peers.Peers(store, 1, 2)
    assert rank.wait_for_a_reason() is None
    rank.tell(peers.End(1, "x"))
    assert rank.is_new(peers.End(1, "x"))
    rank.leave()
    assert store.asked == 1


def test_a_stop_is_no_defect_though_another_rank_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """In launch/jobs/worker.py, which asks Slurm for a requeue: a late rank 0 took it for rank 1's failure, code 1."""
    from pipeline import cli
    from pipeline.engine.distributed.preemption import Interrupted

    class Faster(peers.Peers):
        def first_ended(self) -> tuple[int, peers.End]:
            return 1, peers.End(1, "x")

    def main(argv: list[str]) -> None:
        raise Interrupted(signal.SIGUSR2, 5)

    monkeypatch.setattr(peers, "_peers", Faster(GoneStore(), 0, 2))
    with pytest.raises(Interrupted):
        cli._code(main, str, {Interrupted: None})


def test_a_killed_data_worker_is_named_as_such() -> None:
    from launch.jobs.slurm_state import SIGNS
    from pipeline.process import machine_errors

    said = machine_errors.known(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "))
    found = next(meaning for pattern, meaning in SIGNS if re.search(pattern, f"error: {said}"))
    assert found.startswith("a data worker crashed")
