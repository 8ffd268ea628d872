"""Jobs of this machine that wait for their turn, or for other runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import submitit

from launch.jobs import slurm_state
from launch.jobs.attempts import write_ended
from launch.jobs.inherited import outside
from launch.jobs.submission_record import Submission
from launch.jobs.worker import Job

LOST = ("failed", "cancelled", "timeout", "lost")  # states after which nothing that waits can start


class Awaited(Protocol):
    """A run that others wait for: JobHandle, or SubmissionRow of an earlier call."""

    @property
    def name(self) -> str: ...

    @property
    def job_id(self) -> str | None: ...

    @property
    def cluster(self) -> str: ...

    def state(self) -> str:
        """pending, running, done, failed, cancelled, timeout, lost or unknown."""


@dataclass
class SubmissionFile:
    """submission.json of one call, kept as its jobs start."""

    folder: Path
    content: Submission

    def started(self, jobs: Mapping[int, str]) -> None:
        """Notes the jobs that runs were given, by the runs' numbers."""
        self.content = self.content.started(jobs)
        self.write()

    def write(self) -> None:
        """To the disk."""
        self.content.write(self.folder)


@dataclass
class QueuedJob:
    """One job, perhaps of several runs. job: submitit's, None while a local one waits; limit: local jobs at once.

    over: a debugged one has ended; submitit keeps saying QUEUED of one that failed.
    """

    what: Job
    record: SubmissionFile
    executor: submitit.AutoExecutor
    limit: int = 1
    after: Sequence[Awaited] = ()
    job: Any = None
    gpus: tuple[int, ...] = ()
    over: bool = False

    def start(self) -> None:
        """Hands it to submitit."""
        with outside():
            self.job = self.executor.submit(self.what)
        self.record.started(dict.fromkeys(self.what.numbers, str(self.job.job_id)))

    def give_up(self, reason: str) -> None:
        """It will not be started."""
        for index in self.what.numbers:
            write_ended(self.what.folder, index, "cancelled", reason)

    def seen(self) -> slurm_state.Seen | None:
        """What Slurm, or the local process, says."""
        if self.job is None:
            return slurm_state.Seen("PENDING")
        if self.over:
            return slurm_state.Seen("ENDED")
        if isinstance(self.job, submitit.SlurmJob):
            return slurm_state.look(self.job.job_id)
        state = self.job.state
        return slurm_state.Seen("RUNNING" if state in ("RUNNING", "QUEUED") else state)


@dataclass
class LocalQueue:
    """Local jobs in the order of submission. Whoever waits for one calls `pump` again and again; asking for a state
    starts nothing."""

    waiting: list[QueuedJob] = field(default_factory=list)
    active: list[QueuedJob] = field(default_factory=list)

    def add(self, jobs: Sequence[QueuedJob]) -> None:
        """Jobs that are to run when there is room and what they wait for is done."""
        self.waiting += jobs
        self.pump()

    def pump(self) -> None:
        """Starts what there is room for, and gives up what waits for a run that failed."""
        self.active = [sent for sent in self.active if not sent.job.done()]
        for sent in list(self.waiting):
            states = {one.name: one.state() for one in sent.after}
            failed = [name for name, state in states.items() if state in LOST]
            if failed:
                self.waiting.remove(sent)
                sent.give_up(f"{failed[0]} that it waits for failed")
            elif len(self.active) < sent.limit and all(state == "done" for state in states.values()):
                self.waiting.remove(sent)
                self._start(sent)

    def _start(self, sent: QueuedJob) -> None:
        count = sent.executor.parameters.get("gpus_per_node") or 0
        if count:  # submitit gives every job the first ones
            taken = Counter(number for other in self.active for number in other.gpus)
            free = sorted(sent.executor.parameters["visible_gpus"], key=lambda number: (taken[number], number))
            sent.gpus = tuple(sorted(free[:count]))
            sent.executor.parameters["visible_gpus"] = [*sent.gpus, *free[count:]]
        sent.start()
        self.active.append(sent)


QUEUE = LocalQueue()  # a machine has one, however many submissions a sweep makes
