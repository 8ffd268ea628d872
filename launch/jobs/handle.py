"""A handle on a run that was submitted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.jobs import slurm_state
from launch.jobs.attempts import read_ended, write_ended
from launch.jobs.inherited import outside
from launch.jobs.local_queue import LOST, QUEUE, QueuedJob
from launch.jobs.run_spec import RunSpec
from launch.jobs.submission_record import SubmissionRow, row_of, states

TAIL = 20  # lines of a dead job's log


class JobFailed(Exception):
    """A job ended without a result, or nobody can tell."""


@dataclass
class JobHandle:
    """One run that was submitted: number `index` of its submission. Asking it starts nothing.

    patience_s: how long a Slurm that does not answer is waited for.
    """

    index: int
    spec: RunSpec
    queued: QueuedJob
    poll_s: float = 2.0
    patience_s: float = 600.0
    answered: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Of the submission, with logs, the code and how it ended."""
        return self.queued.what.folder

    @property
    def job_id(self) -> str:
        """Slurm's number, number_task in an array; the process for local jobs; '' while it waits for its turn."""
        return "" if self.queued.job is None else str(self.queued.job.job_id)

    @property
    def cluster(self) -> str:
        """slurm, local or debug."""
        return self.queued.record.content.cluster

    @property
    def name(self) -> str:
        """What people call it: the run's folder."""
        return self.row().name

    def row(self) -> SubmissionRow:
        """What others read of it."""
        content = self.queued.record.content
        row = next(row for row in content.runs if row.index == self.index)
        return row_of(self.folder, content, row)

    def state(self) -> str:
        """pending, running, done, failed, cancelled, timeout, lost (Slurm forgot it) or unknown (no answer)."""
        seen = self.queued.seen()  # first: a run that ends between the two has written how
        return slurm_state.judge(read_ended(self.folder, self.index), seen)

    def over(self) -> bool:
        """Whether it has ended, with or without a result. Raises JobFailed when nobody has answered for too long."""
        state = self.state()
        if state != "unknown":
            self.answered = time.monotonic()
        elif time.monotonic() - self.answered > self.patience_s:
            raise JobFailed(
                f"job {self.job_id} unknown: Slurm has not answered for {self.patience_s / 60:.3g} min. The job may "
                f"still run; once `squeue -j {self.job_id}` answers, launch/status.py tells.\n{self.tail()}"
            )
        return state not in slurm_state.OVER

    def wait(self) -> str:
        """The state it ended in; returns within seconds of a death, whatever the job could still write. Starts local
        jobs whose turn it is.

        Raises JobFailed when Slurm does not answer for `patience_s` seconds.
        """
        if self.cluster == "debug" and not self.queued.over:
            self._debug()
        QUEUE.pump()
        while not self.over():
            time.sleep(self.poll_s)
            QUEUE.pump()
        return self.state()

    def _debug(self) -> None:
        """Runs it in this process."""
        failed = [one.name for one in self.queued.after if one.state() in LOST]
        if failed:
            self.queued.give_up(f"{failed[0]} that it waits for failed")
            return
        if self.queued.job is None:
            self.queued.start()
        try:
            with outside():
                self.queued.job.results()
        except SystemExit as ended:
            if read_ended(self.folder, self.index) is None:
                write_ended(self.folder, self.index, "failed", f"exit code {ended.code}")
        self.queued.over = True

    @property
    def log(self) -> list[Path]:
        """Its log files, rank 0 first; none while it waits for its turn on this machine."""
        return self.row().log

    def restarts(self) -> int:
        """Starts after the first one, whatever their cause."""
        return self.row().restarts()

    def tail(self, lines: int = TAIL) -> str:
        """The end of the log, and of those of other ranks that hold an error."""
        return slurm_state.tail(self.log, lines)

    def reason(self) -> str:
        """Why it ended without a result."""
        return self.row().reason(self.queued.seen())

    def check(self) -> None:
        """Raises JobFailed with the reason and the log's end unless the run is done."""
        state = self.wait()
        if state != "done":
            raise JobFailed(f"job {self.job_id} {state}: {self.reason()}\n{self.tail()}")


def states_of(jobs: Sequence[JobHandle | SubmissionRow]) -> list[str]:
    """The state of each by now; one call of Slurm however many they are."""
    return states([job.row() for job in jobs])
