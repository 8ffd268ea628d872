"""Jobs on a real Slurm: several ranks, pre-emption, time limits, deaths, cancelling, snapshots."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mini_cifar
import pytest
from slurm_daemons import PATH, Slurm, command, start_now, until
from test_resume import assert_same_run, words

from launch import snapshot
from launch.cluster import ClusterConfig
from launch.submit import Submitted, submit_runs

# They need Debian's Slurm (`make slurm`) and root. `make test` runs what needs neither: test_submit_words.py.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    patch = pytest.MonkeyPatch()
    daemons = Slurm(tmp_path_factory.mktemp("slurm"))
    patch.setenv("SLURM_CONF", str(daemons.conf))
    patch.setenv("PATH", PATH)
    patch.setenv("OMP_NUM_THREADS", "1")
    yield daemons
    daemons.close()
    patch.undo()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


def low(**more: object) -> ClusterConfig:
    return ClusterConfig(name="slurm", partition="low", time=10, signal_delay=20, **more)  # type: ignore[arg-type]


def checkpoint_of(run: Path) -> Path:
    return run / "checkpoints" / "last.pt"


def started(job: Submitted, run: Path) -> None:
    until(lambda: checkpoint_of(run).exists() or job.over(), f"a checkpoint in {run}")
    assert not job.over(), job.tail()


def restarts(job: Submitted) -> int:
    seen = job.sent.seen()
    assert seen is not None
    return seen.restarts


def test_two_ranks_preempted_equal_an_undisturbed_run(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    """Two tasks lose their cores to a more important job, go on, and end as two processes of cluster=local do."""
    line = words(data, tmp_path, "broken", "optim.epochs=6")
    [job] = submit_runs(low(tasks_per_node=2), [line], tmp_path / "job")
    started(job, tmp_path / "broken")
    command("sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "true")
    until(lambda: restarts(job) == 1 or job.over(), "the requeue")
    assert not job.over(), job.reason() + job.tail()
    start_now(job.job_id)
    assert job.wait() == "done", job.reason() + job.tail()
    text = job.tail(1000)
    assert "SIGUSR2: stopped after step" in text and "resumed at step" in text and "over 2 rank(s) = 16 each" in text
    local = ClusterConfig(name="local", tasks_per_node=2)
    [calm] = submit_runs(local, [words(data, tmp_path, "calm", "optim.epochs=6")], tmp_path / "calm_job")
    assert calm.wait() == "done", calm.reason() + calm.tail()
    assert_same_run(tmp_path / "calm", tmp_path / "broken")


def test_the_time_limit_requeues_only_the_task_concerned(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    lines = [words(data, tmp_path, name, "optim.epochs=300") for name in ("first", "second")]
    jobs = submit_runs(low(), lines, tmp_path / "job")
    started(jobs[0], tmp_path / "first")
    started(jobs[1], tmp_path / "second")
    raw = command("squeue", "-h", "-o", "%A", "-j", jobs[0].job_id).strip()
    command("scontrol", "update", f"JobId={raw}", "TimeLimit=1")
    until(lambda: restarts(jobs[0]) == 1 or jobs[0].over(), "the requeue", 100)
    until(lambda: jobs[0].state() == "pending", "the end of the first start")
    assert "SIGUSR2: stopped after step" in jobs[0].tail()
    assert jobs[1].state() == "running" and restarts(jobs[1]) == 0
    command("scancel", jobs[0].job_id.split("_")[0])  # the whole array
    assert [job.wait() for job in jobs] == ["cancelled", "cancelled"]
    assert restarts(jobs[1]) == 0 and jobs[1].reason() == "cancelled"


def kill(job: Submitted) -> None:
    """SIGKILL for the rank: of all processes the one that runs python over this job's folder (srun names it too)."""
    ours = [sys.executable.encode(), str(job.folder).encode()]
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            argv = file.read_bytes().split(b"\0")
            if argv[0] == ours[0] and ours[1] in argv:
                os.kill(int(file.parent.name), signal.SIGKILL)


def test_a_killed_rank_is_reported(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    [job] = submit_runs(low(), [words(data, tmp_path, "x", "optim.epochs=300")], tmp_path / "job")
    started(job, tmp_path / "x")
    kill(job)
    begin = time.monotonic()
    assert job.wait() == "failed"
    assert time.monotonic() - begin < 30
    assert job.reason().startswith("killed by SIGKILL") and "epoch" in job.tail()


def test_a_queued_job_runs_the_code_as_it_was(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    """From a copy of the tree, with the command line; the copy is spoiled while the job waits."""
    tree = snapshot.take(tmp_path / "tree")
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
    ended = tmp_path / "x" / "job-1" / "run-0.json"
    log = ended.with_name(f"{job_id}_0_log.out")
    until(ended.exists, str(log))
    assert '"done"' in ended.read_text(), log.read_text()
