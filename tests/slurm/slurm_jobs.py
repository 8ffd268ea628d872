"""What the tests do to jobs: wait for them, preempt, kill and spoil them."""

import contextlib
import os
import signal
import sys
from pathlib import Path

from slurm_daemons import command, start_now, until

from launch.jobs.cluster import ClusterConfig
from launch.submit import JobHandle

# Runs before anything else of the job's Python: the first TIMES starts of a job end at once.
SPOILER = """
import os, pathlib, signal
if "SLURM_JOB_ID" in os.environ:
    count = pathlib.Path({folder!r}) / ("starts-" + os.environ["SLURM_JOB_ID"])
    with count.open("a") as handle:
        handle.write("x")
    if count.stat().st_size <= {times}:
        {end}
"""


def low(**more: object) -> ClusterConfig:
    """Both cores of the node are for one job of two ranks, or for two jobs; pre-emptible."""
    given = {"name": "slurm", "partition": "low", "time": 10, "signal_delay": 20}
    return ClusterConfig(**given | more)  # type: ignore[arg-type]


def spoiler(folder: Path, times: int, end: str) -> str:
    """A folder for PYTHONPATH with which the first `times` starts of each job do `end`."""
    (folder / "spoiler").mkdir()
    (folder / "spoiler" / "sitecustomize.py").write_text(SPOILER.format(folder=str(folder), times=times, end=end))
    return str(folder / "spoiler")


def starts(folder: Path) -> list[int]:
    """How often Python was started, for each job in the order of their numbers."""
    return [file.stat().st_size for file in sorted(folder.glob("starts-*"))]


def started(job: JobHandle, run: Path) -> None:
    """Waits for the first checkpoint of `run`."""
    until(lambda: (run / "checkpoints" / "last.pt").exists() or job.over(), f"a checkpoint in {run}", 120)
    assert not job.over(), job.reason() + job.tail()


def requeued(job: JobHandle, times: int) -> None:
    """Waits until Slurm has started `job` over `times` times, and lets it start at once."""
    until(lambda: slurm_restarts(job) == times or job.over(), f"requeue {times}", 120)
    assert not job.over(), job.reason() + job.tail()
    start_now(job.job_id)


def slurm_restarts(job: JobHandle) -> int:
    """As Slurm counts them."""
    seen = job.queued.seen()
    assert seen is not None
    return seen.restarts


def processes(job: JobHandle) -> list[int]:
    """The ranks and their workers: those that run python over this job's folder (srun names it too)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            argv = file.read_bytes().split(b"\0")
            if argv[0] == sys.executable.encode() and str(job.folder).encode() in argv:
                found.append(int(file.parent.name))
    return found


def workers(job: JobHandle) -> list[int]:
    """Of its processes those that another one forked."""
    ours = processes(job)
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in ours}
    return [pid for pid, parent in parents.items() if parent in ours]


def kill(pids: list[int]) -> None:
    """SIGKILL."""
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def take_both_cores() -> None:
    """A more important job that ends at once."""
    command("sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "true")
