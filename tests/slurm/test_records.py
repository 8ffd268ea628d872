"""Starts that lead nowhere are counted, and end; ranks meet; the previous start's lock is waited for."""

import fcntl
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from launch.jobs import rendezvous
from launch.jobs.attempts import (
    IDLE,
    TAKEN,
    Starts,
    begin,
    newest,
    next_start,
    note_end,
    read_ended,
    read_starts,
    wait_for_locks,
)
from launch.jobs.cluster import ClusterConfig, dependency, submitit_parameters
from launch.jobs.processes import Process
from launch.jobs.run_spec import RunSpec
from launch.jobs.worker import Job


def marks_of(folder: Path) -> tuple[str, ...]:
    return (f"{folder}/checkpoints/*.pt",)


def save(folder: Path, time_ns: int) -> None:
    """A checkpoint of that time."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    file = folder / "checkpoints" / "last.pt"
    file.touch()
    os.utime(file, ns=(time_ns, time_ns))


def test_starts_without_progress_end(tmp_path: Path) -> None:
    """One start, and three that find nothing new; after a checkpoint the count begins anew, the others are free."""
    marks = marks_of(tmp_path)
    assert [begin(tmp_path, 0, marks) for _ in range(IDLE)] == [""] * IDLE
    save(tmp_path, 10**18)
    assert [begin(tmp_path, 0, marks) for _ in range(IDLE)] == [""] * IDLE
    note_end(tmp_path, 0, TAKEN)
    assert begin(tmp_path, 0, marks) == ""
    assert note_end(tmp_path, 0, "failed").failures == 1
    assert begin(tmp_path, 0, marks) == "" and read_ended(tmp_path, 0) is None
    message = begin(tmp_path, 0, marks)
    assert message.startswith(f"{IDLE} starts in a row ended before anything was saved")
    assert read_ended(tmp_path, 0) == {"outcome": "failed", "message": message}
    assert read_starts(tmp_path, 0).count == 2 * IDLE + 2


def test_a_job_that_is_given_up_ends_as_bad_input_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("launch.jobs.worker.torch_environment", lambda folder: {})
    run = RunSpec(words=("x",), folder=tmp_path, marks=marks_of(tmp_path))
    for _ in range(IDLE):
        begin(tmp_path, 0, run.marks)
    with pytest.raises(SystemExit) as ended:
        Job(folder=tmp_path, runs=(run,), retries=5)()
    assert ended.value.code == 2 and "raise cluster.time" in capsys.readouterr().err


def test_marks_are_the_newest_file(tmp_path: Path) -> None:
    assert newest([f"{tmp_path}/checkpoints/*.pt"]) == "0"
    save(tmp_path, 5_000)
    before = Starts(count=1, mark=newest([f"{tmp_path}/checkpoints/*.pt"]))
    assert before.mark == "5000" and next_start(before, "5000").idle == 1 and next_start(before, "6000").idle == 0


def test_the_lock_of_the_start_before_is_waited_for(tmp_path: Path) -> None:
    lock = (tmp_path / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    waiting = threading.Thread(target=wait_for_locks, args=([f"{tmp_path}/checkpoints/*.pt"],))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    lock.close()
    waiting.join(30)
    assert not waiting.is_alive()


def test_ranks_on_one_machine_meet_where_rank_0_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead start of the local launcher left, or another start of Slurm's job, is not taken for it."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    file = tmp_path / "rendezvous-7.json"
    ended = multiprocessing.get_context("spawn").Process(target=int)
    ended.start()
    ended.join()
    dead = Process(pid=ended.pid or 0, started=1)
    file.write_text(rendezvous.Meeting(port=1, restarts=0, leader=dead).model_dump_json())
    found: list[int] = []
    rank = threading.Thread(target=lambda: found.append(rendezvous.meet(file, 1, 0)))
    rank.start()
    rank.join(0.3)
    assert rank.is_alive() and found == []
    port = rendezvous.meet(file, 0, 0)
    rank.join(30)
    assert found == [port] and port > 1023
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(rendezvous, "WAIT_S", 0.2)
    with pytest.raises(RuntimeError, match="rank 0 did not start"):
        rendezvous.meet(file, 1, 1)
    assert rendezvous.meet(file, 0, 1) == rendezvous.meet(file, 1, 1) == json.loads(file.read_text())["port"]


def test_dependencies_in_the_batch_script() -> None:
    cluster = ClusterConfig(name="slurm", extra={"dependency": "singleton"})
    assert dependency(cluster, ()) == {}
    keys = submitit_parameters(cluster, "x", after=("7", "8_1"))["slurm_additional_parameters"]
    assert keys["dependency"] == "afterok:7:8_1,singleton" and keys["kill-on-invalid-dep"] == "yes"
