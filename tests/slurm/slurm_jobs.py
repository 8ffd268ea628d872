"""What the tests do to jobs: wait for them, preempt, kill and spoil them."""

import contextlib
import os
import signal
import sys
from pathlib import Path

from slurm_daemons import command, start_now, until

from launch.jobs.cluster import ClusterConfig
from launch.submit import JobHandle

SIGNAL_DELAY = 20
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
    given = {"name": "slurm", "partition": "low", "time": 10, "signal_delay": SIGNAL_DELAY}
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
    until(lambda: (run / "checkpoints" / "last.pt").exists() or job.over(), f"a checkpoint in {run}")
    assert not job.over(), job.reason() + job.tail()


def requeued(job: JobHandle, times: int) -> None:
    """Waits until Slurm has started `job` over `times` times, and lets it start at once."""
    until(lambda: slurm_restarts(job) == times or job.over(), f"requeue {times}")
    assert not job.over(), job.reason() + job.tail()
    start_now(job.job_id)


def slurm_restarts(job: JobHandle) -> int:
    """As Slurm counts them; -1 where it does not answer just then."""
    seen = job.queued.seen()
    return -1 if seen is None else seen.restarts


def slurm_seconds(number: str) -> int:
    """How long a job has run, by its raw number."""
    shown = dict(word.partition("=")[::2] for word in command("scontrol", "-o", "show", "job", number).split())
    hours, minutes, seconds = map(int, shown["RunTime"].split(":"))
    return 3600 * hours + 60 * minutes + seconds


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
    """Of its processes the data workers, as torch names them; others are forks on their way to another program."""
    found = []
    for pid in processes(job):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "pt_data_worker":
                found.append(pid)
    return found


def kill(pids: list[int]) -> None:
    """SIGKILL."""
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def take_both_cores() -> None:
    """A more important job that ends at once."""
    command("sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "true")
