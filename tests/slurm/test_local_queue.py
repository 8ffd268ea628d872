"""Jobs of this machine: in order, some at once, after what they wait for, each on devices of its own."""

import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launch.jobs import handle, slurm_state
from launch.jobs.attempts import read_ended, write_ended
from launch.jobs.cluster import ClusterConfig
from launch.jobs.local_queue import LocalQueue, QueuedJob, SubmissionFile
from launch.jobs.processes import this_process
from launch.jobs.run_spec import RunSpec
from launch.jobs.submission import slurm_ids
from launch.jobs.submission_record import StoredRow, Submission, read_submission
from launch.jobs.worker import Job
from launch.submit import submit_runs
from pipeline.contracts import InputError


@dataclass
class Started:
    """What submitit gives back."""

    job_id: str
    gpus: list[int]
    ended: bool = False

    @property
    def state(self) -> str:
        return "ENDED" if self.ended else "RUNNING"

    def done(self) -> bool:
        return self.ended


@dataclass
class Executor:
    """Takes jobs and starts nothing."""

    parameters: dict[str, Any] = field(default_factory=dict)
    jobs: list[Started] = field(default_factory=list)

    def submit(self, what: Job) -> Started:
        gpus = self.parameters.get("visible_gpus", [])[: self.parameters.get("gpus_per_node", 0)]
        self.jobs.append(Started(str(100 + len(self.jobs)), list(gpus)))
        return self.jobs[-1]


@dataclass
class Other:
    """A run that is waited for."""

    name: str = "/teacher"
    job_id: str | None = "7"
    cluster: str = "slurm"
    now: str = "pending"

    def state(self) -> str:
        return self.now


def sent(folder: Path, executor: Executor, count: int, **more: Any) -> list[QueuedJob]:
    """`count` jobs of one run each, recorded in `folder`."""
    rows = tuple(StoredRow(index=k, job=None, tasks=1, words=(), run=None) for k in range(count))
    content = Submission(
        cluster="local",
        entry="train",
        host=socket.gethostname(),
        created=time.time(),
        launcher=this_process(),
        runs=rows,
    )
    record = SubmissionFile(folder, content)
    run = RunSpec(words=(), folder=folder / "run")
    made: list[Any] = [
        QueuedJob(Job(folder=folder, runs=(run,), first=k), record, executor, **more)  # type: ignore[arg-type]
        for k in range(count)
    ]
    return made


def test_some_at_once_over_all_submissions(tmp_path: Path) -> None:
    queue, executor = LocalQueue(), Executor()
    for name in ("job-1", "job-2"):
        (tmp_path / name).mkdir()
        queue.add(sent(tmp_path / name, executor, 2, limit=2))
    assert len(executor.jobs) == 2
    assert [run.job_id for run in read_submission(tmp_path / "job-1")] == ["100", "101"]
    executor.jobs[1].ended = True
    queue.pump()
    queue.pump()
    assert [run.job_id for run in read_submission(tmp_path / "job-2")] == ["102", None]


def test_what_waits_is_overtaken_and_given_up_when_hope_is_lost(tmp_path: Path) -> None:
    queue, executor, teacher = LocalQueue(), Executor(), Other()
    for name in ("job-1", "job-2"):
        (tmp_path / name).mkdir()
    queue.add(sent(tmp_path / "job-1", executor, 1, after=[teacher]))
    queue.add(sent(tmp_path / "job-2", executor, 1))
    assert len(executor.jobs) == 1 and queue.waiting[0].what.folder.name == "job-1"
    executor.jobs[0].ended = True
    queue.pump()
    assert len(executor.jobs) == 1
    teacher.now = "failed"
    queue.pump()
    assert queue.waiting == [] and len(executor.jobs) == 1
    assert read_ended(tmp_path / "job-1", 0) == {"outcome": "cancelled", "message": "/teacher that it waits for failed"}
    queue.add(sent(tmp_path / "job-1", executor, 1, after=[Other(now="done")]))
    assert len(executor.jobs) == 2


def test_each_on_the_devices_that_fewest_use(tmp_path: Path) -> None:
    queue, executor = LocalQueue(), Executor({"gpus_per_node": 1, "visible_gpus": (2, 5)})
    queue.add(sent(tmp_path, executor, 4, limit=3))
    assert [job.gpus for job in executor.jobs] == [[2], [5], [2]]
    executor.jobs[1].ended = True
    queue.pump()
    assert executor.jobs[3].gpus == [5]


def test_what_slurm_is_asked_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm_ids([Other(), Other(job_id="8_1"), Other(now="done", job_id="9"), Other()]) == ("7", "8_1")
    with pytest.raises(InputError, match="Slurm cannot wait for it"):
        slurm_ids([Other(cluster="local")])
    monkeypatch.setattr(slurm_state, "look", lambda job_id: slurm_state.Seen(""))
    with pytest.raises(InputError, match="/teacher that the runs wait for has failed"):
        slurm_ids([Other(now="failed")])


def test_one_after_the_other_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cluster=debug: in order; what waits for a run that failed is cancelled."""
    words = ["dataset=synthetic", "model=resnet8", f"run.dir={tmp_path}", "runtime.device=cpu"]
    debug = ClusterConfig(name="debug")

    def run(self: Job) -> str:
        one = self.runs[0]
        if "run.name=bad" in one.words:
            raise SystemExit(2)
        write_ended(self.folder, self.first, "done")
        return "done"

    monkeypatch.setattr(Job, "__call__", run)
    [good] = submit_runs(debug, [[*words, "run.name=good"]], tmp_path / "job-1")
    [bad] = submit_runs(debug, [[*words, "run.name=bad"]], tmp_path / "job-2", after=[good])
    [last] = submit_runs(debug, [[*words, "run.name=last"]], tmp_path / "job-3", after=[good, bad])
    assert [job.wait() for job in (good, bad, last)] == ["done", "failed", "cancelled"]
    assert last.reason() == f"{tmp_path / 'bad'} that it waits for failed" and bad.reason() == "exit code 2"
    assert handle.states_of([good, bad, last]) == ["done", "failed", "cancelled"]


def test_a_getter_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose turn has come stays where it is, whatever it is asked; whoever waits for it starts it."""
    queue, executor = LocalQueue(), Executor()
    monkeypatch.setattr(handle, "QUEUE", queue)
    queued = sent(tmp_path, executor, 2)
    queue.add(queued)
    first, second = (handle.JobHandle(k, one.what.runs[0], one) for k, one in enumerate(queued))
    executor.jobs[0].ended = True
    write_ended(tmp_path, 0, "done")
    assert (second.state(), second.over(), second.job_id, second.log) == ("pending", False, "", [])
    assert handle.states_of([first, second]) == ["done", "pending"] and second.restarts() == 0
    assert second.row().state() == "pending" and second.reason() and len(executor.jobs) == 1
    write_ended(tmp_path, 1, "done")  # so that waiting ends at once
    assert second.wait() == "done" and len(executor.jobs) == 2
