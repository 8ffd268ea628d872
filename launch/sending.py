"""Jobs through submitit: checks, the batch script, submission, and a handle on what was submitted."""

import logging
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import SlurmExecutor

from launch import snapshot, watch
from launch.cluster import ClusterConfig, submitit_parameters, visible_gpus
from launch.entries import ENTRIES
from launch.job import Job, Run, read_ended
from pipeline.contracts import InputError
from pipeline.nearest import hint

TAIL = 20  # lines of a dead job's log
SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cephfs", "fuse.ceph", "fuse.juicefs", "9p", "wekafs",
          "glusterfs", "fuse.glusterfs", "orangefs", "cifs", "smb3", "afs", "panfs", "virtiofs"}  # fmt: skip


class JobFailed(Exception):
    """A job ended without a result."""


class _Anywhere(SlurmExecutor):
    """Writes batch scripts on machines without Slurm too (submit.dry)."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def python_command(code: Path) -> str:
    """The interpreter with the snapshot before everything else; the folder of submission is not searched."""
    others = [p for p in os.environ.get("PYTHONPATH", "").split(":") if p and Path(p).resolve() != snapshot.ROOT]
    path = ":".join([str(code), *others])
    return shlex.join(["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={path}", sys.executable])


def retry_lines(folder: Path, retries: int) -> list[str]:
    """Shell lines after srun: an end that is no result starts the job (of an array, this task) again.

    140 is a signal before Python listened: free. Bad input (2) and a stop on request (75, 143) are no failures.
    """
    counter = shlex.quote(str(folder)) + '/failures-"$SLURM_JOB_ID"'
    return [
        "code=$?",
        'id="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"',
        'case "$code" in',
        "  0|2|75|143) ;;",
        '  140) scontrol requeue "${id:-$SLURM_JOB_ID}" ;;',
        f"  *) echo x >> {counter}",
        f'     [ "$(wc -l < {counter})" -gt {retries} ] || scontrol requeue "${{id:-$SLURM_JOB_ID}}" ;;',
        "esac",
        'exit "$code"',
    ]


def make_executor(cluster: ClusterConfig, folder: Path, name: str) -> submitit.AutoExecutor:
    """submitit's executor with the cluster's parameters. Raises InputError where there is no Slurm."""
    if cluster.name == "slurm" and SlurmExecutor.affinity() <= 0:
        raise InputError("cluster=slurm, but there is no srun on this machine; cluster=local runs without Slurm")
    known = {} if cluster.name == "debug" else {f"{cluster.name}_python": python_command(folder / "code")}
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster.name, **known)
    executor.update_parameters(**submitit_parameters(cluster, name, retry_lines(folder, cluster.retries)))
    if cluster.name == "local" and executor.parameters.get("gpus_per_node"):
        executor.parameters["visible_gpus"] = visible_gpus()  # numbers of the caller's CUDA_VISIBLE_DEVICES
    return executor


def script(cluster: ClusterConfig, folder: Path, entry: str) -> str:
    """The batch script that a submission would send."""
    if cluster.name != "slurm":
        raise InputError(f"cluster={cluster.name} has no batch script")
    executor = _Anywhere(folder, python=python_command(folder / "code"))
    asked = submitit_parameters(cluster, job_name(folder, entry), retry_lines(folder, cluster.retries))
    asked = {k.removeprefix("slurm_"): v for k, v in asked.items() if v is not None}
    parameters = executor._convert_parameters({k: v for k, v in asked.items() if k != "mem"})
    executor._internal_update_parameters(**parameters, **({"mem": asked["mem"]} if "mem" in asked else {}))
    return executor._make_submission_file_text(executor._submitit_command_str, "dry")


def job_name(folder: Path, entry: str) -> str:
    """What squeue shows: the end of the run's folder."""
    return "/".join([entry, *folder.parent.parts[-3:]])


def cluster_problems(cluster: ClusterConfig, entry: str, config: Any) -> list[str]:
    """What is wrong between a run and the cluster it is for."""
    problems = []
    if cluster.ranks > 1 and not ENTRIES[entry].several_ranks:
        problems.append(f"entry={entry} is one process; the cluster's keys ask for {cluster.ranks}")
    batch = getattr(getattr(config, "data", None), "batch_size", None)
    if batch is not None and batch < cluster.ranks:
        problems.append(
            f"data.batch_size={batch} is smaller than cluster.nodes={cluster.nodes} x {cluster.tasks} processes each"
        )
    if cluster.name == "slurm" and cluster.partition is not None and SlurmExecutor.affinity() > 0:
        told = watch.call("sinfo", "-h", "-o", "%R")
        known = sorted(set(told.stdout.split()))
        unknown = [p for p in cluster.partition.split(",") if known and p not in known]
        problems += [f"unknown cluster.partition {p!r}{hint(p, known)} (known: {', '.join(known)})" for p in unknown]
    return problems


def check_folder(cluster: ClusterConfig, folder: Path) -> None:
    """Refuses a folder that Slurm would read otherwise, or that other machines do not see. Raises InputError."""
    if not re.fullmatch(r"[\w./+=,@~-]+", str(folder)):
        raise InputError(
            f"{str(folder)!r} holds characters that shells or Slurm interpret: choose run.dir and run.name"
        )
    if cluster.name != "slurm" or not cluster.check_folder:
        return
    others = set(watch.call("sinfo", "-h", "-N", "-o", "%n").stdout.split()) if SlurmExecutor.affinity() > 0 else set()
    kind = filesystem(folder)
    if others - {socket.gethostname().split(".")[0], socket.gethostname()} and kind not in SHARED:
        raise InputError(
            f"{folder} lies on a {kind} disk of this machine, which the nodes do not see: choose run.dir on a shared "
            "file system (cluster.check_folder=false if it is shared all the same)"
        )


def filesystem(folder: Path) -> str:
    """Type of the file system that holds `folder`."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holders = [(len(row[1]), row[2]) for row in rows if folder.is_relative_to(row[1])]
    return max(holders)[1] if holders else "unknown"


@dataclass
class LocalQueue:
    """Jobs of this machine that wait for others: `limit` at once. Whoever asks for a state starts the next."""

    executor: submitit.AutoExecutor
    limit: int
    waiting: list["Sent"] = field(default_factory=list)
    active: list["Sent"] = field(default_factory=list)

    def pump(self) -> None:
        """Starts what there is room for."""
        self.active = [s for s in self.active if s.job is not None and not s.job.done()]
        while self.waiting and len(self.active) < self.limit:
            sent = self.waiting.pop(0)
            sent.job = self.executor.submit(sent.what)
            self.active.append(sent)


@dataclass
class Sent:
    """One job of submitit, perhaps of several runs. job: None while a local one waits."""

    what: Job
    folder: Path
    tasks: int
    job: Any = None
    queue: LocalQueue | None = None

    def seen(self) -> watch.Seen | None:
        """What Slurm, or the local process, says."""
        if self.queue is not None:
            self.queue.pump()
        if self.job is None:
            return watch.Seen("PENDING")
        if isinstance(self.job, submitit.SlurmJob):
            return watch.look(self.job.job_id)
        state = self.job.state
        return watch.Seen("RUNNING" if state in ("RUNNING", "QUEUED") else state)


@dataclass
class Submitted:
    """One run that was submitted. folder: of the submission, with logs, the code and how it ended."""

    folder: Path
    words: list[str]
    run: Run
    sent: Sent
    poll_s: float = 2.0

    @property
    def job_id(self) -> str:
        """Slurm's number, number_task in an array; the process for local jobs; '' while it waits for its turn."""
        return "" if self.sent.job is None else str(self.sent.job.job_id)

    def state(self) -> str:
        """pending, running, done, failed, cancelled, timeout, lost (Slurm forgot it) or unknown (no answer)."""
        return watch.judge(read_ended(self.run.ended), self.sent.seen())

    def over(self) -> bool:
        """Whether it has ended, with or without a result."""
        return self.state() not in watch.OVER

    def wait(self) -> str:
        """The state it ended in; returns within seconds of a death, whatever the job could still write."""
        if isinstance(self.sent.job, submitit.DebugJob):
            self.sent.job.results()
        while not self.over():
            time.sleep(self.poll_s)
        return self.state()

    def logs(self) -> list[Path]:
        """Its log files, rank 0 first."""
        if len(self.sent.what.runs) > 1:
            return [self.run.log]
        return [self.folder / f"{self.job_id}_{task}_log.out" for task in range(self.sent.tasks)]

    def tail(self, lines: int = TAIL) -> str:
        """The end of the log, and of those of other ranks that hold an error."""
        return watch.tail(self.logs(), lines)

    def reason(self) -> str:
        """Why it ended without a result."""
        log = "".join(f.read_text(errors="replace")[-100_000:] for f in self.logs() if f.exists())
        return watch.explain(read_ended(self.run.ended), self.sent.seen(), log)

    def check(self) -> None:
        """Raises JobFailed with the reason and the log's end unless the run is done."""
        state = self.wait()
        if state != "done":
            raise JobFailed(f"job {self.job_id} {state}: {self.reason()}\n{self.tail()}")


def submit_runs(
    cluster: ClusterConfig, commands: list[list[str]], folder: Path, entry: str = "train"
) -> list[Submitted]:
    """Each command (the words of one run) as a job; several as an array with cluster.pack runs a task.

    folder: for logs and the code, new or empty. Raises InputError for what cannot be submitted.
    """
    folder = folder.absolute()
    check_folder(cluster, folder)
    runs = [Run(index=i, words=tuple(words), folder=folder) for i, words in enumerate(commands)]
    groups = [tuple(runs[i : i + cluster.pack]) for i in range(0, len(runs), cluster.pack)]
    executor = make_executor(cluster, folder, job_name(folder, entry))
    snapshot.take(folder / "code")
    sent = [Sent(Job(entry=entry, runs=group, retries=cluster.retries), folder, cluster.ranks) for group in groups]
    try:
        start(cluster, executor, sent)
    except (FailedJobError, OSError, RuntimeError) as error:
        raise InputError(f"the job was not accepted: {' '.join(str(error).split())[-400:]}") from None
    return [Submitted(folder, list(run.words), run, one) for one in sent for run in one.what.runs]


def start(cluster: ClusterConfig, executor: submitit.AutoExecutor, sent: Sequence[Sent]) -> None:
    """Hands the jobs to submitit: an array on Slurm, some at a time on this machine."""
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns where there is no sacct; states come from watch.py
    if cluster.name == "local":
        queue = LocalQueue(executor, cluster.parallel or 1, list(sent))
        for one in sent:
            one.queue = queue
        queue.pump()
        return
    if len(sent) == 1:
        sent[0].job = executor.submit(sent[0].what)
        return
    with executor.batch():
        jobs = [executor.submit(one.what) for one in sent]
    for one, job in zip(sent, jobs, strict=True):
        one.job = job
