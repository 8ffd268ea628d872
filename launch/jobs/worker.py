"""What runs inside a job: one rank of one run, or several runs that share a GPU.

A signal asks for an end: training writes one joint checkpoint and raises Interrupted on all ranks (exit code 75); then
rank 0 asks Slurm once to start this job, or this task of an array, again. Other entry points go on from their files and
are requeued at once. How the run ended stands in run-<index>.json of the job's folder; submitit's own pickles are not
read.
"""

import os
import re
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from launch.jobs.attempts import (
    TAKEN,
    begin,
    log_file,
    note_end,
    write_ended,
)
from launch.jobs.entry_points import ENTRIES
from launch.jobs.rendezvous import torch_environment
from launch.jobs.run_spec import RunSpec
from pipeline import cli as endings
from pipeline import signals
from pipeline.engine.distributed.preemption import EXIT_CODE, Interrupted

LOCAL_AGAIN = 144  # submitit's local controller starts the tasks again


def slurm_job() -> str | None:
    """ID of this job, of the one task of an array; None outside Slurm."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def preempted(job: str) -> bool:
    """Whether Slurm wants the nodes back, asked after a SIGTERM: scancel sends it as well and means it."""
    shown = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True).stdout
    found = re.search(r"\bPreemptTime=(\S+)", shown)
    return "JobState=CANCELLED" not in shown and found is not None and found[1] not in ("None", "Unknown", "N/A")


def start_again(number: int, what: "Job") -> NoReturn:
    """Ends this rank after signal `number`; rank 0 sees to it that the runs go on."""
    job, leader = slurm_job(), os.environ.get("SLURM_PROCID", "0") == "0"
    if job is None:
        wanted = number == signal.SIGUSR2 and "SUBMITIT_LOCAL_JOB_ID" in os.environ
        os._exit(LOCAL_AGAIN if wanted else EXIT_CODE)
    if not leader:
        os._exit(0)  # --kill-on-bad-exit would stop rank 0 before it has asked
    taken = preempted(job)
    if number == signal.SIGUSR2 or taken:
        for index in what.numbers:
            note_end(what.folder, index, TAKEN if taken else "time limit")
        print(f"{signal.Signals(number).name}: job {job} is requeued", flush=True)
        subprocess.run(["scontrol", "requeue", job], timeout=60)
    os._exit(EXIT_CODE)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What submitit calls on each rank. folder: of the submission; runs: of one entry point, one or several that share
    a GPU; first: number of the first one in the submission."""

    folder: Path
    runs: tuple[RunSpec, ...]
    first: int = 0
    retries: int = 0

    @property
    def numbers(self) -> range:
        """Of its runs in the submission."""
        return range(self.first, self.first + len(self.runs))

    def __call__(self) -> str:
        early: Any = lambda number, frame: start_again(number, self)  # noqa: E731
        # Before training listens itself, and in what has nothing to save: nothing is lost by starting again.
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, early)
        os.environ.update(torch_environment(self.folder))
        if is_leader():
            early_file(self.folder).unlink(missing_ok=True)  # Python came up: those before are no row any more
            starts = [begin(self.folder, index, run.marks) for index, run in zip(self.numbers, self.runs, strict=True)]
            given_up = [message for message in starts if message]
            if given_up:
                print(f"error: {given_up[0]}", file=sys.stderr, flush=True)
                sys.exit(endings.USER_ERROR)  # what cluster.retries does not repeat
        if len(self.runs) > 1:
            return run_together(self)
        return self._alone(self.runs[0])

    def _alone(self, run: RunSpec) -> str:
        """The entry point in this process."""
        # What training answers by itself, and what hangs and is ended, starts again in the same way.
        signals.listen(signals.GOES_ON, EXIT_CODE, bounded=False).finish = lambda n: start_again(n, self)
        module = ENTRIES[run.entry].load()
        sys.argv = [str(script_of(run.entry)), *run.words]
        failures = {**getattr(module, "FAILURES", {})}
        failures[Interrupted] = None  # raised; a rank that is a moment late must not take it for another's defect
        code: int | str | None = 0
        try:
            endings.run(module.main, module.help_text, failures)
        except SystemExit as ended:
            code = ended.code
        except Interrupted as stopped:
            print(stopped, flush=True)
            start_again(stopped.number, self)
        except BaseException as error:
            traceback.print_exc()
            self._fail(f"{type(error).__name__}: {error}", 1)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it is done: a late signal must not start it again
        if code:
            self._fail(f"exit code {code}", code)
        if is_leader():
            write_ended(self.folder, self.first, "done")
        return "done"

    def _fail(self, message: str, code: int | str) -> NoReturn:
        """Ends this rank; the local launcher may start the run once more, under Slurm the batch script counts."""
        if not is_leader():
            sys.exit(code)
        write_ended(self.folder, self.first, "failed", message)
        starts = note_end(self.folder, self.first, "failed")
        local = slurm_job() is None and "SUBMITIT_LOCAL_JOB_ID" in os.environ
        again = local and code != endings.USER_ERROR and starts.failures <= self.retries
        sys.exit(LOCAL_AGAIN if again else code)


def early_file(folder: Path) -> Path:
    """Where the batch script counts the starts that were stopped before Python listened."""
    return folder / f"early-{os.environ.get('SLURM_JOB_ID', '')}"


def is_leader() -> bool:
    """Whether this is rank 0."""
    return os.environ.get("RANK", "0") == "0"


def script_of(entry: str) -> Path:
    """The entry point in the tree that this file is of."""
    return Path(__file__).resolve().parents[2] / ENTRIES[entry].script


def run_together(job: Job) -> str:
    """Each run in a process of its own; signals go to all, and one that was stopped starts all again: those that
    are done end at once."""
    processes: list[subprocess.Popen[bytes]] = []
    received = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, forward)
    for index, run in zip(job.numbers, job.runs, strict=True):
        with log_file(job.folder, index).open("ab") as log:
            command = [sys.executable, "-u", str(script_of(run.entry)), *run.words]
            processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in processes]
    for index, code in zip(job.numbers, codes, strict=True):
        if code == 0:
            write_ended(job.folder, index, "done")
        elif not received:
            write_ended(job.folder, index, "failed", f"exit code {code}")
            note_end(job.folder, index, "failed")
    if received and any(codes):
        start_again(received[-1], job)
    if any(codes):
        sys.exit(next(code if code > 0 else 128 - code for code in codes if code))
    return "done"
