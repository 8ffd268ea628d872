"""What was submitted, read back by others: states of runs of this machine, of Slurm's, and of files that are none."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.jobs import slurm_state
from launch.jobs.attempts import ended_file, write_ended
from launch.jobs.handle import JobHandle
from launch.jobs.processes import Process, started, this_process
from launch.jobs.submission_record import StoredRow, Submission, find_submissions, read_submission, states
from pipeline.contracts import InputError

GONE = Process(pid=os.getpid(), started=1)  # the number of a living process, and the start of an earlier one


def submission(folder: Path, jobs: list[str | None], launcher: Process | None = None, **more: object) -> Path:
    """`folder` with the record of as many runs as there are jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = tuple(StoredRow(index=k, job=job, tasks=1, words=(f"seed={k}",), run=f"/r{k}") for k, job in enumerate(jobs))
    given = {"cluster": "local", "entry": "train", "host": socket.gethostname(), "created": 5.0, "runs": rows} | more
    Submission(launcher=launcher or this_process(), **given).write(folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the folder of a submission in its command line, as local jobs have it."""
    words = [sys.executable, "-c", "input()", str(tmp_path / "job-1")]
    process = subprocess.Popen(words, stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_local_runs(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    """Running, waiting, done, failed with its process gone, killed, and the number of somebody else's process."""
    mine = str(sleeper.pid)
    folder = submission(tmp_path / "job-1", [mine, None, "1", "1", "1", str(os.getpid())])
    write_ended(folder, 2, "done")
    write_ended(folder, 3, "failed", "exit code 2")
    runs = read_submission(folder)
    assert states(runs) == ["running", "pending", "done", "failed", "failed", "failed"]
    assert runs[3].reason() == "exit code 2" and runs[0].log == [folder / f"{mine}_0_log.out"] and runs[1].log == []
    write_ended(folder, 0, "failed")  # is started again: cluster.retries
    assert runs[0].state() == "running"
    sleeper.kill()
    sleeper.wait()
    assert runs[0].state() == "failed"
    assert (runs[0].words, runs[0].run_folder, runs[0].created) == (("seed=0",), Path("/r0"), 5.0)


def test_nobody_left_to_start_what_waits(tmp_path: Path) -> None:
    folder = submission(tmp_path / "job-1", [None, None, None], GONE)
    write_ended(folder, 1, "cancelled", "/a that it waits for failed")
    runs = read_submission(folder)
    assert states(runs) == ["lost", "cancelled", "lost"] and runs[1].reason() == "/a that it waits for failed"
    assert states(read_submission(submission(tmp_path / "job-2", ["7"], host="elsewhere"))) == ["unknown"]
    here = submission(tmp_path / "job-3", [None, "DEBUG_1"], cluster="debug")
    assert states(read_submission(here)) == ["pending", "running"]
    assert started(os.getpid()) == this_process().started and not GONE.alive()


def test_three_hundred_runs_are_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["7_0 RUNNING 0 2 None", "7_1 PENDING 0 0 (Resources)", "7_2 FAILED 9 1 NonZeroExitCode"]
    said += ["8 CANCELLED 0 0 DependencyNeverSatisfied"]
    calls: list[tuple[str, ...]] = []

    def call(*command: str) -> "subprocess.CompletedProcess[str]":
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, "\n".join(said), "")

    monkeypatch.setattr(slurm_state, "call", call)
    monkeypatch.setattr(slurm_state.shutil, "which", lambda name: None)
    submission(tmp_path / "a" / "job-1", [f"7_{k}" for k in range(300)], cluster="slurm")
    submission(tmp_path / "b" / "job-2", ["8"], cluster="slurm", created=9.0, after=("/teacher",))
    runs = find_submissions([tmp_path, tmp_path / "b"])
    assert len(runs) == 301 and runs[-1].job_id == "8"
    write_ended(runs[4].folder, 4, "done")
    found = states(runs)
    assert found[:6] == ["running", "pending", "failed", "lost", "done", "lost"] and found[-1] == "cancelled"
    assert [command[0] for command in calls] == ["squeue"] and "7,8" in calls[0]
    assert "killed by SIGKILL" in runs[2].reason()
    assert runs[-1].reason() == "a run that it waits for failed: /teacher"


def test_accounting_tells_what_the_controller_has_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"squeue": (1, "", "Invalid job id specified"), "sacct": (0, "7_1|CANCELLED by 0|0:15\n", "")}
    monkeypatch.setattr(slurm_state, "call", lambda *words: subprocess.CompletedProcess(words, *answers[words[0]]))
    monkeypatch.setattr(slurm_state.shutil, "which", lambda name: name)
    assert slurm_state.look_all(["7_0", "7_1"]) == {
        "7_0": slurm_state.Seen(""),
        "7_1": slurm_state.Seen("CANCELLED", "0:15"),
    }
    answers["squeue"] = (1, "", "Unable to contact slurm controller (connect failure)")
    assert slurm_state.look_all(["7_0", "7_1"]) == {"7_0": None, "7_1": None}


def test_a_run_that_ends_while_it_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote counts, though it was not there when the question began: runs that wait for it were given up."""
    folder = submission(tmp_path / "job-1", ["7_0", "7_1"], cluster="slurm")
    end: list[tuple[int, str, str]] = []

    def look_all(jobs: Iterable[str]) -> dict[str, slurm_state.Seen | None]:
        write_ended(folder, *end[-1])
        return {job: slurm_state.Seen("COMPLETED" if end[-1][1] == "done" else "FAILED", "1:0") for job in jobs}

    monkeypatch.setattr(slurm_state, "look_all", look_all)
    queued: Any = SimpleNamespace(what=SimpleNamespace(folder=folder), seen=lambda: look_all(["7_0"])["7_0"])
    spec: Any = None
    job = JobHandle(0, spec, queued)
    for ask in (lambda: states(read_submission(folder))[0], job.state):
        end.append((0, "done", ""))
        assert ask() == "done"
        ended_file(folder, 0).unlink()
    end.append((1, "failed", "exit code 2"))
    assert read_submission(folder)[1].reason() == "exit code 2"


@pytest.mark.parametrize(
    ("content", "text"),
    [("{", "cannot read"), ("[]", "is not the record"), ('{"format": 2}', "is not the record")],
)
def test_other_files_are_refused(content: str, text: str, tmp_path: Path) -> None:
    folder = submission(tmp_path / "job-1", ["7"])
    (folder / "submission.json").write_text(content)
    with pytest.raises(InputError, match=text):
        find_submissions([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        find_submissions([tmp_path / "absent"])


def test_what_the_record_says_in_the_file(tmp_path: Path) -> None:
    """The format that others may rely on."""
    written = json.loads((submission(tmp_path / "job-1", ["7_0", None]) / "submission.json").read_text())
    assert written["format"] == 1 and written["runs"][1]["job"] is None
    assert set(written) >= {"cluster", "entry", "host", "created", "runs"}
    assert set(written["runs"][0]) >= {"index", "job", "tasks", "words", "run"}
