"""Jobs on a real Slurm: several ranks, pre-emption, time limits, deaths, retries, chains, arrays, snapshots."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cli
import mini_cifar
import pytest
from slurm_daemons import Slurm, command, running, start_now, until
from slurm_jobs import (
    SIGNAL_DELAY,
    kill,
    low,
    processes,
    requeued,
    slurm_restarts,
    slurm_seconds,
    spoiler,
    started,
    starts,
    take_both_cores,
    workers,
)
from test_resume import assert_same_run, words

from launch import submit, table
from launch.jobs import code_snapshot
from launch.jobs.cluster import ClusterConfig
from launch.jobs.handle import JobFailed
from launch.jobs.submission_record import find_submissions, read_submission, states
from launch.submit import submit_runs

pytestmark = pytest.mark.slurm  # `make test` leaves them out where Slurm cannot be had, and says so


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running(tmp_path_factory.mktemp("slurm")) as daemons:
        yield daemons


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


def test_two_ranks_preempted_equal_an_undisturbed_run(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    """Two tasks lose their cores to a more important job, go on, and end as two processes of cluster=local do."""
    line = words(data, tmp_path, "broken", "optim.epochs=6")
    [job] = submit_runs(low(tasks_per_node=2), [line], tmp_path / "job")
    started(job, tmp_path / "broken")
    take_both_cores()
    requeued(job, 1)
    assert job.wait() == "done", job.reason() + job.tail()
    text = job.tail(1000)
    assert "SIGUSR2: stopped after step" in text and "resumed at step" in text and "over 2 rank(s) = 16 each" in text
    assert job.restarts() == 1
    local = ClusterConfig(name="local", tasks_per_node=2)
    [calm] = submit_runs(local, [words(data, tmp_path, "calm", "optim.epochs=6")], tmp_path / "calm_job")
    assert calm.wait() == "done", calm.reason() + calm.tail()
    assert_same_run(tmp_path / "calm", tmp_path / "broken")


def test_the_time_limit_requeues_only_the_task_concerned(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    lines = [words(data, tmp_path, name, "optim.epochs=300") for name in ("first", "second")]
    jobs = submit_runs(low(), lines, tmp_path / "job-1")
    started(jobs[0], tmp_path / "first")
    started(jobs[1], tmp_path / "second")
    raw = command("squeue", "-h", "-o", "%A", "-j", jobs[0].job_id).strip()
    # Whole minutes that end later than the signal before them: a machine under load may be over the first one already.
    minutes = (slurm_seconds(raw) + SIGNAL_DELAY + 10) // 60 + 1
    command("scontrol", "update", f"JobId={raw}", f"TimeLimit={minutes}")
    until(lambda: slurm_restarts(jobs[0]) == 1 or jobs[0].over(), "the requeue")
    until(lambda: jobs[0].state() == "pending", "the end of the first start")
    assert "SIGUSR2: stopped after step" in jobs[0].tail()
    assert jobs[1].state() == "running" and slurm_restarts(jobs[1]) == 0
    assert states(read_submission(tmp_path / "job-1")) == ["pending", "running"]
    command("scancel", jobs[0].job_id.split("_")[0])  # the whole array
    assert [job.wait() for job in jobs] == ["cancelled", "cancelled"]
    assert slurm_restarts(jobs[1]) == 0 and jobs[1].reason() == "cancelled"
    assert states(find_submissions([tmp_path])) == ["cancelled", "cancelled"]


def test_deaths_are_reported(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    """A rank, and in another job a data worker, are killed: two reasons, both at once."""
    endless = "optim.epochs=300"
    loader = ["data.loader=torch", "data.workers=1"]
    [rank] = submit_runs(low(), [words(data, tmp_path, "x", endless)], tmp_path / "rank")
    [worker] = submit_runs(low(), [words(data, tmp_path, "y", endless, *loader)], tmp_path / "worker")
    started(rank, tmp_path / "x")
    started(worker, tmp_path / "y")
    until(lambda: workers(worker), "a data worker")
    kill(processes(rank))
    begin = time.monotonic()
    assert rank.wait() == "failed"
    assert time.monotonic() - begin < 30
    assert rank.reason().startswith("killed by SIGKILL") and "epoch" in rank.tail()
    kill(workers(worker)[:1])
    assert worker.wait() == "failed"
    assert worker.reason().startswith("a data worker crashed"), worker.reason() + worker.tail()


def test_a_queued_job_runs_the_code_as_it_was(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    """From a copy of the tree, with the command line; the copy is spoiled while the job waits."""
    tree = code_snapshot.take(tmp_path / "tree")
    made = json.loads((tree / "SNAPSHOT.json").read_text()) | {"git": "the commit of submission"}
    (tree / "SNAPSHOT.json").write_text(json.dumps(made))
    line = words(data, tmp_path, "x", "run.limit_steps=2")
    done = subprocess.run(
        [sys.executable, str(tree / "launch" / "submit.py"), "cluster=slurm", "cluster.partition=low",
         "cluster.extra.begin=now+3600", *line],
        cwd=tree, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "watch:  tail -F" in done.stdout, done.stdout + done.stderr
    job_id = done.stdout.split()[1]
    for file in [*tree.rglob("*.py")]:
        file.write_text("raise SystemExit('edited')\n")
    start_now(job_id)
    [job] = read_submission(tmp_path / "x" / "job-1")
    assert (job.job_id, job.run_folder, job.words) == (job_id, tmp_path / "x", tuple(line))
    until(lambda: job.state() == "done", str(job.log[0]))
    written = json.loads((tmp_path / "x" / "environment.json").read_text())
    assert (written["git"], written["snapshot_sha256"]) == ("the commit of submission", made["sha256"])


def test_six_runs_of_an_array_become_a_table(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    lines = [
        words(data, tmp_path, f"{method}{seed}", f"method={method}", f"seed={seed}", "optim.epochs=1",
              "optim.milestones=[]", "run.checkpoint_steps=0")
        for method in ("kd", "dist") for seed in range(3)
    ]  # fmt: skip
    jobs = submit_runs(low(parallel=2), lines, tmp_path / "job-1")
    assert len({job.job_id.split("_")[0] for job in jobs}) == 1
    assert [job.wait() for job in jobs] == ["done"] * 6, [job.tail() for job in jobs]
    rows = table.make_report([tmp_path]).rows
    assert {row.method: row.seeds for row in rows} == {"kd": [0, 1, 2], "dist": [0, 1, 2]}


def test_teacher_then_cache_then_two_students_on_one_device(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    """A chain by Slurm's dependencies, of four entry points' jobs, the students' two runs packed into one."""
    common = [
        "dataset=cifar100", f"data.root={data}", "runtime.device=cpu", f"run.dir={tmp_path}", "data.batch_size=32",
        "log.tensorboard=false",
    ]  # fmt: skip
    short = ["optim.epochs=1", "optim.milestones=[]"]
    learned = [f"teacher.checkpoint={tmp_path / 'teacher'}", "pair=resnet20-resnet8"]
    [teacher] = submit_runs(low(), [[*common, *short, "model=resnet20", "run.name=teacher"]], tmp_path / "job-1")
    out = ["cache.out=" + str(tmp_path / "cache"), "cache.views=1"]
    [cache] = submit_runs(low(), [[*common, *learned, *out]], tmp_path / "job-2", "cache_teacher", [teacher])
    cached = ["method=kd", "teacher.source=cached", f"teacher.cache={tmp_path / 'cache'}"]
    lines = [[*common, *short, *learned, *cached, f"run.name=s{k}", f"seed={k}"] for k in (0, 1)]
    students = submit_runs(low(pack=2), lines, tmp_path / "job-3", after=read_submission(tmp_path / "job-2"))
    checked = ["model=resnet20", f"checkpoint={tmp_path / 'teacher' / 'student.safetensors'}", *common[:3]]
    [score] = submit_runs(low(), [checked], tmp_path / "job-4", "evaluate", [teacher])
    chain = [teacher, cache, *students, score]
    assert [job.state() for job in chain[1:]] == ["pending"] * 4
    for job in chain:
        job.check()
    assert students[0].job_id == students[1].job_id
    for name in ("teacher", "s0", "s1"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["epochs"] == 1
    assert all(f"files in {tmp_path / name}" in job.tail() for name, job in zip(("s0", "s1"), students, strict=True))
    assert '"samples": 60' in score.tail()


def test_what_waits_for_a_failed_run_is_cancelled(
    slurm: Slurm,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And follow=true ends with 1 and the reason; a partition that does not exist is refused before anything."""
    line = words(data, tmp_path, "x")
    code, _, err = cli.call(submit, [*line, "cluster=slurm", "cluster.partition=lowe"], capsys)
    assert code == 2 and "unknown cluster.partition 'lowe'" in err and "did you mean" in err
    monkeypatch.setenv("PYTHONPATH", spoiler(tmp_path, 99, "os._exit(1)"))
    [first] = submit_runs(low(), [line], tmp_path / "job-1")
    [second] = submit_runs(low(), [words(data, tmp_path, "y")], tmp_path / "job-2", after=[first])
    assert (first.wait(), second.wait()) == ("failed", "cancelled")
    assert second.reason() == f"a run that it waits for failed: {tmp_path / 'x'}"
    code, out, err = cli.call(submit, [*line, "cluster=slurm", "cluster.partition=low", "follow=true"], capsys)
    assert code == 1 and "failed: ended without a result" in err, out + err


def test_failures_are_repeated_as_often_as_asked(
    slurm: Slurm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two failures and then a success with two retries; with one retry the second failure is the end."""
    lines = [words(data, tmp_path, name, "run.limit_steps=2") for name in ("good", "bad")]
    monkeypatch.setenv("PYTHONPATH", spoiler(tmp_path, 2, "os._exit(1)"))
    [good] = submit_runs(low(retries=2), lines[:1], tmp_path / "job-1")
    [bad] = submit_runs(low(retries=1), lines[1:], tmp_path / "job-2")
    requeued(good, 1)
    requeued(bad, 1)
    requeued(good, 2)
    assert (bad.wait(), good.wait()) == ("failed", "done"), good.tail()
    assert starts(tmp_path) == [3, 2]


def test_a_job_that_is_always_stopped_early_ends(
    slurm: Slurm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes before Python listens: three starts, then it says so."""
    monkeypatch.setenv("PYTHONPATH", spoiler(tmp_path, 99, "os.kill(os.getpid(), signal.SIGUSR2)"))
    [job] = submit_runs(low(), [words(data, tmp_path, "x")], tmp_path / "job-1")
    requeued(job, 1)
    requeued(job, 2)
    assert job.wait() == "failed" and starts(tmp_path) == [3]
    assert "before Python had started" in job.reason()


def test_a_slurm_that_does_not_answer_is_not_waited_for_for_ever(
    slurm: Slurm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = low(extra={"begin": "now+3600"})
    [job] = submit_runs(begin, [words(data, tmp_path, "x")], tmp_path / "job-1")
    gone = tmp_path / "slurm.conf"
    port = f"SlurmctldPort={slurm.ports[0]}"
    text = slurm.conf.read_text()
    assert port in text
    gone.write_text(text.replace(port, "SlurmctldPort=1") + "MessageTimeout=2\n")
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", str(gone))
        job.patience_s = 0.1
        job.answered = time.monotonic()
        with pytest.raises(JobFailed, match=r"unknown: Slurm has not answered for .* may still run"):
            job.wait()
        assert states(read_submission(tmp_path / "job-1")) == ["unknown"]
    assert job.state() == "pending"
    command("scancel", job.job_id)
    assert job.wait() == "cancelled"
