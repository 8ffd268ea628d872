"""What runs inside a job: one rank of one run, or several runs that share a GPU.

A signal asks for an end: training writes one joint checkpoint and raises Interrupted on all ranks (exit code 75); then
rank 0 asks Slurm once to start this job, or this task of an array, again. Other entry points go on from their files and
are requeued at once. How the run ended stands in run-<index>.json of the job's folder; submitit's own pickles are not
read.
"""

import json
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

from launch.entries import ENTRIES
from pipeline import entry as endings
from pipeline.engine.interrupts import EXIT_CODE, Interrupted
from pipeline.files import write_json

LOCAL_AGAIN = 144  # submitit's local controller starts the tasks again
PORTS = (10_000, 20_000)  # first, count: below those that systems give to clients


def rendezvous(job_id: str, restarts: int) -> int:
    """Port of the process group: another one after each requeue, because the first start's store is stale."""
    number = int(re.sub(r"\D", "", job_id) or 0)
    return PORTS[0] + (number * 16 + restarts) % PORTS[1]


def torch_environment() -> dict[str, str]:
    """What torchrun would set, out of Slurm's or the local launcher's variables."""
    import submitit

    env = submitit.JobEnvironment()
    if env.num_tasks == 1:
        return {}
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    return {
        "RANK": str(env.global_rank),
        "WORLD_SIZE": str(env.num_tasks),
        "LOCAL_RANK": str(env.local_rank),
        "LOCAL_WORLD_SIZE": str(max(1, env.num_tasks // env.num_nodes)),
        "MASTER_ADDR": env.hostnames[0] if env.num_nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(rendezvous(env.raw_job_id, restarts)),
    }


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


def start_again(number: int) -> NoReturn:
    """Ends this rank after signal `number`; rank 0 sees to it that the run goes on."""
    job, leader = slurm_job(), os.environ.get("SLURM_PROCID", "0") == "0"
    if job is None:
        wanted = number == signal.SIGUSR2 and "SUBMITIT_LOCAL_JOB_ID" in os.environ
        os._exit(LOCAL_AGAIN if wanted else EXIT_CODE)
    if not leader:
        os._exit(0)  # --kill-on-bad-exit would stop rank 0 before it has asked
    if number == signal.SIGUSR2 or preempted(job):
        print(f"{signal.Signals(number).name}: job {job} is requeued", flush=True)
        subprocess.run(["scontrol", "requeue", job], timeout=60)
    os._exit(EXIT_CODE)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: number in its submission, words of its command line, folder of the submission."""

    index: int
    words: tuple[str, ...]
    folder: Path

    @property
    def ended(self) -> Path:
        """File that says how it ended."""
        return self.folder / f"run-{self.index}.json"

    @property
    def log(self) -> Path:
        """What it prints where several share a GPU."""
        return self.folder / f"run-{self.index}.log"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What submitit calls on each rank. entry: key of ENTRIES; runs: one, or several that share a GPU."""

    entry: str
    runs: tuple[Run, ...]
    retries: int = 0

    def __call__(self) -> str:
        early: Any = lambda number, frame: self._early(number, frame)  # noqa: E731
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, early)
        os.environ.update(torch_environment())
        if len(self.runs) > 1:
            return self._together()
        return self._alone(self.runs[0])

    def _early(self, number: int, frame: FrameType | None) -> None:
        """Before training listens itself, and in what has nothing to save: nothing is lost by starting again."""
        start_again(number)

    def _alone(self, run: Run) -> str:
        """The entry point in this process."""
        leader = os.environ.get("RANK", "0") == "0"
        if leader:
            run.ended.unlink(missing_ok=True)
        module = ENTRIES[self.entry].load()
        sys.argv = [str(Path(__file__).resolve().parents[1] / ENTRIES[self.entry].script), *run.words]
        failures = {**getattr(module, "FAILURES", {})}
        failures.pop(Interrupted, None)
        code: int | str | None = 0
        try:
            endings.run(module.main, module.help_text, failures)
        except SystemExit as ended:
            code = ended.code
        except Interrupted as stopped:
            print(stopped, flush=True)
            start_again(stopped.number)
        except BaseException as error:
            self._failed(run, leader, f"{type(error).__name__}: {error}")
            traceback.print_exc()
            sys.exit(LOCAL_AGAIN if self._local_retry(run, leader) else 1)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it is done: a late signal must not start it again
        if code:
            self._failed(run, leader, f"exit code {code}")
            sys.exit(LOCAL_AGAIN if code != endings.USER_ERROR and self._local_retry(run, leader) else code)
        if leader:
            write_json(run.ended, {"outcome": "done"})
        return "done"

    def _failed(self, run: Run, leader: bool, message: str) -> None:
        if leader:
            write_json(run.ended, {"outcome": "failed", "message": message})

    def _local_retry(self, run: Run, leader: bool) -> bool:
        """Whether the local launcher starts a failed run once more; under Slurm the batch script counts."""
        if slurm_job() is not None or not leader or "SUBMITIT_LOCAL_JOB_ID" not in os.environ:
            return False
        counter = run.folder / f"run-{run.index}.failures"
        failures = len(counter.read_text()) if counter.exists() else 0
        counter.write_text("x" * (failures + 1))
        return failures < self.retries

    def _together(self) -> str:
        """Each run in a process of its own; signals go to all, and one that was stopped starts all again: those that
        are done end at once."""
        script = Path(__file__).resolve().parents[1] / ENTRIES[self.entry].script
        processes: list[subprocess.Popen[bytes]] = []
        received = []

        def forward(number: int, frame: FrameType | None) -> None:
            received.append(number)
            for process in processes:
                process.send_signal(number)

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, forward)
        for run in self.runs:
            run.ended.unlink(missing_ok=True)
            with run.log.open("ab") as log:
                command = [sys.executable, "-u", str(script), *run.words]
                processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        codes = [process.wait() for process in processes]
        for run, code in zip(self.runs, codes, strict=True):
            if code == 0:
                write_json(run.ended, {"outcome": "done"})
            elif not received:
                self._failed(run, True, f"exit code {code}")
        if received and any(codes):
            start_again(received[-1])
        if any(codes):
            sys.exit(next(code if code > 0 else 128 - code for code in codes if code))
        return "done"


def read_ended(file: Path) -> dict[str, str] | None:
    """What a run wrote at its end, None while there is nothing."""
    try:
        found: dict[str, str] = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found
