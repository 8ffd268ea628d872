"""Stages of a sweep as submissions: teachers and what needs none first, caches after their teacher, students last."""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from launch.jobs.checks import check_folder, cluster_problems
from launch.jobs.cluster import ClusterConfig
from launch.jobs.local_queue import Awaited
from launch.jobs.run_spec import RunSpec
from launch.jobs.submission import JobHandle, submit_runs
from launch.jobs.submission_record import free_folder
from launch.sweeps.runs import Plan
from launch.sweeps.state import TRAIN, SweepStatus
from pipeline.config import ConfigError
from pipeline.contracts import InputError, unwritten
from pipeline.weights.published import find_checkpoint

ARRAY = 1000  # runs of one array: Slurm's MaxArraySize is 1001 unless a site says otherwise
SentRun = tuple[RunSpec, JobHandle]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One call at a time looks what is missing and sends it; a second one waits for the first. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".sweep.lock").open("w")
    except OSError as error:
        raise unwritten(f"cannot write to {folder}", error) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"waiting for another launch/sweep.py that submits in {folder}", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def check(cluster: ClusterConfig, plan: Plan) -> None:
    """Every run against the cluster, and every name. Raises ConfigError, InputError."""
    check_folder(cluster, plan.folder.absolute())
    by_size = {(run.entry, run.config.data.batch_size): run for run in plan.runs}
    anywhere = cluster.model_copy(update={"partition": None})
    problems = [p for run in plan.runs[:1] for p in cluster_problems(cluster, run.entry, run.config)]
    for run in by_size.values():
        problems += [f"{run.name}: {p}" for p in cluster_problems(anywhere, run.entry, run.config) if p not in problems]
    if cluster.name == "debug":
        problems.append("cluster=debug is for one run (launch/submit.py); a sweep goes to local or slurm")
    if problems:
        raise ConfigError(problems)
    for run in plan.runs:
        check_folder(ClusterConfig(), run.folder.absolute())


def weight_problems(plan: Plan) -> list[str]:
    """A line for each teacher whose weights are not there and that no run of the plan makes."""
    made = {str(run.folder) for run in plan.teachers}
    problems: dict[str, None] = {}
    for run in plan.students:
        teacher = run.config.teacher
        file = teacher.checkpoint
        if file is None or file in made or file == "none" or ":" in str(teacher.model):
            continue
        try:
            if file == "auto":
                find_checkpoint(str(teacher.model), run.config.dataset, Path(teacher.root))
            elif not Path(file).expanduser().exists():
                problems[f"teacher.checkpoint={file}: no such file"] = None
        except InputError as error:
            problems[str(error.args[0])] = None
    return [*problems]


def send(cluster: ClusterConfig, plan: Plan, status: SweepStatus) -> list[SentRun]:
    """Submits what is still to be done, in arrays that wait for their teacher or cache alone. Raises InputError."""
    done = {run.folder for run in status.done}
    handles: dict[Path, Awaited] = {run.folder: sent for run, sent, _ in status.in_work}
    jobs: list[SentRun] = []

    def array(runs: Sequence[RunSpec], after: Sequence[Awaited]) -> None:
        for start in range(0, len(runs), ARRAY):
            part = runs[start : start + ARRAY]
            commands = [list(run.words) for run in part]
            sent = submit_runs(cluster, commands, free_folder(plan.folder), part[0].entry, after=after)
            jobs.extend(zip(part, sent, strict=True))
            handles.update({run.folder: one for run, one in zip(part, sent, strict=True)})

    for runs, waits in stages(status.todo, done):
        array(runs, [handles[waits]] if waits is not None else [])
    return jobs


def stages(todo: Sequence[RunSpec], done: set[Path]) -> list[tuple[list[RunSpec], Path | None]]:
    """(runs of one array, folder of what they wait for), each after what it waits for."""
    waiting = [run if run.waits not in done else replace(run, waits=None) for run in todo]
    groups: dict[tuple[bool, str, Path | None], list[RunSpec]] = {}
    for run in waiting:
        later = run.waits is not None and run.entry == TRAIN
        groups.setdefault((later, run.entry, run.waits), []).append(run)
    # A cache waits for trainings at most, a student for one of both: trainings that wait for nothing come first.
    order = sorted(groups, key=lambda k: (k[0], k[1] != TRAIN, k[2] is not None))
    return [(groups[k], k[2]) for k in order]
