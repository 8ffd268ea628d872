"""Jobs through submitit: the batch script, dependencies, submission."""

import itertools
import logging
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import SlurmExecutor

from launch.jobs import code_snapshot, slurm_state
from launch.jobs.attempts import IDLE
from launch.jobs.checks import check_folder
from launch.jobs.cluster import ClusterConfig, submitit_parameters, visible_gpus
from launch.jobs.entry_points import ENTRIES
from launch.jobs.handle import JobFailed, JobHandle
from launch.jobs.inherited import outside
from launch.jobs.local_queue import LOST, QUEUE, Awaited, QueuedJob, SubmissionFile
from launch.jobs.processes import this_process
from launch.jobs.run_spec import RunSpec
from launch.jobs.submission_record import StoredRow, Submission
from launch.jobs.worker import Job
from pipeline.config.layer_folders import OWN
from pipeline.contracts import InputError

__all__ = ["JobFailed", "JobHandle", "script", "submit_runs"]


class _Anywhere(SlurmExecutor):
    """Writes batch scripts on machines without Slurm too (submit.dry)."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def python_command(code: Path) -> str:
    """The interpreter with the snapshot before everything else; the folder of submission is not searched."""
    others = [p for p in os.environ.get("PYTHONPATH", "").split(":") if p and Path(p).resolve() != code_snapshot.ROOT]
    path = ":".join([str(code), *others])
    own = [f"{OWN}="] if os.environ.get(OWN) else []  # the snapshot holds its files
    return shlex.join(["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={path}", *own, sys.executable])


def retry_lines(folder: Path, retries: int) -> list[str]:
    """Shell lines after srun: an end that is no result starts the job (of an array, this task) again.

    140 is a signal before Python listened: free, but only IDLE times in a row. Bad input (2) and a stop on request
    (75, 143) are no failures.
    """

    def counted(name: str, limit: int) -> list[str]:
        file = f'{shlex.quote(str(folder))}/{name}-"$SLURM_JOB_ID"'
        return [f"     echo x >> {file}", f'     [ "$(wc -l < {file})" -gt {limit} ] || scontrol requeue "$id" ;;']

    return [
        "code=$?",
        'id="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"',
        'id="${id:-$SLURM_JOB_ID}"',
        'case "$code" in',
        "  0|2|75|143) ;;",
        "  140)",
        *counted("early", IDLE - 1),
        "  *)",
        *counted("failures", retries),
        "esac",
        'exit "$code"',
    ]


def make_executor(
    cluster: ClusterConfig, folder: Path, name: str, after: Sequence[str] = (), array: bool = False
) -> submitit.AutoExecutor:
    """submitit's executor with the cluster's parameters. Raises InputError where there is no Slurm."""
    if cluster.name == "slurm" and SlurmExecutor.affinity() <= 0:
        raise InputError("cluster=slurm, but there is no srun on this machine; cluster=local runs without Slurm")
    if cluster.name == "slurm" and (told := slurm_state.call("sinfo", "-h")).returncode != 0:
        raise InputError(f"Slurm's controller does not answer ({' '.join(told.stderr.split())}): nothing was submitted")
    known = {} if cluster.name == "debug" else {f"{cluster.name}_python": python_command(folder / "code")}
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster.name, **known)
    teardown = retry_lines(folder, cluster.retries)
    executor.update_parameters(**submitit_parameters(cluster, name, teardown, after, array=array))
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


def submit_runs(
    cluster: ClusterConfig,
    commands: Sequence[Sequence[str]],
    folder: Path,
    entry: str = "train",
    after: Sequence[Awaited] = (),
) -> list[JobHandle]:
    """Each command (the words of one run) as a job; several as an array with cluster.pack runs a task.

    folder: for logs, the code and submission.json, new or empty. after: runs (JobHandle, or SubmissionRow of an earlier
    call) that must be done before any of these starts; where one fails, these end as cancelled. Raises InputError for
    what cannot be submitted, ConfigError for words that the entry point would refuse.
    """
    folder = folder.absolute()
    check_folder(cluster, folder)
    fresh = not folder.exists() or not any(folder.iterdir())
    runs = [make_spec(entry, words) for words in commands]
    groups = [tuple(runs[i : i + cluster.pack]) for i in range(0, len(runs), cluster.pack)]
    waits_for = slurm_ids(after) if is_slurm(cluster) else ()
    executor = make_executor(cluster, folder, job_name(folder, entry), waits_for, array=len(groups) > 1)
    code_snapshot.take(folder / "code")
    record = SubmissionFile(folder, describe(cluster, entry, groups, after))
    firsts = itertools.accumulate(map(len, groups), initial=0)
    jobs = [Job(folder=folder, runs=g, first=k, retries=cluster.retries) for g, k in zip(groups, firsts, strict=False)]
    sent = [QueuedJob(job, record, executor, limit=cluster.parallel or 1, after=after) for job in jobs]
    try:
        with outside(cluster.given, devices=is_slurm(cluster)):
            start(cluster, sent)
    except (FailedJobError, OSError, RuntimeError) as error:
        if fresh:
            shutil.rmtree(folder)  # nothing was submitted
        raise InputError(f"the job was not accepted: {' '.join(str(error).split())[-400:]}") from None
    patience_s = cluster.patience * 60.0
    return [
        JobHandle(index, run, one, patience_s=patience_s)
        for one in sent
        for index, run in zip(one.what.numbers, one.what.runs, strict=True)
    ]


def is_slurm(cluster: ClusterConfig) -> bool:
    """Whether Slurm itself holds runs back."""
    return cluster.name == "slurm"


def make_spec(entry: str, words: Sequence[str]) -> RunSpec:
    """One run, its words checked. Raises ConfigError, InputError."""
    kind = ENTRIES[entry]
    config = kind.check(list(words))
    return RunSpec(entry=entry, words=tuple(words), folder=kind.folder(config).absolute(), marks=kind.marks(config))


def describe(
    cluster: ClusterConfig, entry: str, groups: Sequence[Sequence[RunSpec]], after: Sequence[Awaited]
) -> Submission:
    """What submission.json says before any job has a number."""
    runs = [(run, len(group) > 1) for group in groups for run in group]
    rows = tuple(
        StoredRow(index=k, job=None, tasks=cluster.ranks, words=run.words, run=str(run.folder), packed=packed)
        for k, (run, packed) in enumerate(runs)
    )
    return Submission(
        cluster=cluster.name, entry=entry, host=socket.gethostname(), created=time.time(), launcher=this_process(),
        after=tuple(one.name for one in after), runs=rows,
    )  # fmt: skip


def slurm_ids(after: Sequence[Awaited]) -> tuple[str, ...]:
    """Jobs that Slurm is to wait for; what is done already needs no waiting. Raises InputError."""
    ids: dict[str, None] = {}
    for one in after:
        state = one.state()
        if state == "done":
            continue
        if one.cluster != "slurm" or not one.job_id:
            raise InputError(f"{one.name} is {state} on cluster={one.cluster}: Slurm cannot wait for it")
        if state in LOST and slurm_state.look(one.job_id) == slurm_state.Seen(""):
            raise InputError(f"{one.name} that the runs wait for has {state}")
        ids[one.job_id] = None
    return tuple(ids)


def start(cluster: ClusterConfig, sent: Sequence[QueuedJob]) -> None:
    """Hands the jobs to submitit: an array on Slurm, some at a time on this machine, one after the other to debug."""
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns where there is no sacct; states come from watch.py
    sent[0].record.write()
    if cluster.name == "local":
        QUEUE.add(sent)
        return
    if cluster.name == "debug":
        return  # JobHandle.wait runs them
    if len(sent) == 1:
        sent[0].start()
        return
    executor = sent[0].executor
    with executor.batch():
        jobs = [executor.submit(one.what) for one in sent]
    for one, job in zip(sent, jobs, strict=True):
        one.job = job
    sent[0].record.started({index: str(one.job.job_id) for one in sent for index in one.what.numbers})
