"""What was submitted: written beside the logs of a submission, read by whoever wants to know what became of it."""

import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from launch.jobs import slurm_state
from launch.jobs.attempts import log_file, read_ended, read_starts
from launch.jobs.processes import Process, runs_with
from pipeline.config import ConfigError, validate
from pipeline.config.base import Section
from pipeline.contracts import InputError
from pipeline.run_folder.record import check_folder
from pipeline.utils.atomic import write_json
from pipeline.utils.untrusted_files import Unreadable, read_json

FILE = "submission.json"
FOLDER = re.compile(r"job-\d+")


class StoredRow(Section):
    """One run. job: Slurm's number or a process, None while a local run waits; packed: it shares its job."""

    model_config = ConfigDict(extra="ignore")
    index: int = Field(ge=0, le=10**9)
    job: str | None = Field(pattern=r"^[\w-]{0,64}$")  # part of the names of logs
    tasks: int = Field(ge=0, le=10**5)
    words: tuple[str, ...]
    run: str | None = Field(pattern=r"^[^\x00]*$")
    packed: bool = False


class Submission(Section):
    """submission.json. created: Unix time; launcher: what starts local runs; after: runs that these wait for."""

    model_config = ConfigDict(extra="ignore")
    format: Literal[1] = 1
    cluster: Literal["slurm", "local", "debug"]
    entry: str = Field(pattern=r"^\w{1,40}$")
    host: str
    created: float
    launcher: Process
    after: tuple[str, ...] = ()
    runs: tuple[StoredRow, ...]

    def write(self, folder: Path) -> None:
        """Into `folder`, atomically."""
        write_json(folder / FILE, self.model_dump(mode="json"))

    def started(self, jobs: Mapping[int, str]) -> "Submission":
        """The same with the jobs that runs were given, by the runs' numbers."""
        rows = (row.model_copy(update={"job": jobs.get(row.index, row.job)}) for row in self.runs)
        return self.model_copy(update={"runs": tuple(rows)})


@dataclass(frozen=True, kw_only=True)
class SubmissionRow:
    """One run of a submission. folder: of the submission; run_folder: where the run writes."""

    folder: Path
    index: int
    job_id: str | None
    cluster: str
    entry: str
    words: tuple[str, ...]
    run_folder: Path | None
    tasks: int
    host: str
    created: float
    launcher: Process
    packed: bool = False
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.run_folder or self.folder)

    @property
    def ended(self) -> Mapping[str, str] | None:
        """What it wrote at its end."""
        return read_ended(self.folder, self.index)

    @property
    def log(self) -> list[Path]:
        """Its log files, rank 0 first; none while it waits for its turn on this machine."""
        if self.job_id is None:
            return []
        logs = [self.folder / f"{self.job_id}_{task}_log.out" for task in range(self.tasks)]
        return [log_file(self.folder, self.index), *logs] if self.packed else logs

    def state(self) -> str:
        """pending, running, done, failed, cancelled, timeout, lost (nothing knows it any more) or unknown."""
        return states([self])[0]

    def row(self) -> "SubmissionRow":
        """The run as its submission has it by now."""
        return next((row for row in read_submission(self.folder) if row.index == self.index), self)

    def restarts(self) -> int:
        """Starts after the first one, whatever their cause."""
        return max(0, read_starts(self.folder, self.index).count - 1)

    def here(self) -> slurm_state.Seen | None:
        """What this machine says of a run that is not Slurm's; None where it runs on another one."""
        if self.host != socket.gethostname():
            return None
        if self.job_id is None:
            return slurm_state.Seen("PENDING" if self.launcher.alive() else "")
        number = int(self.job_id) if self.job_id.isdigit() else None
        debugged = self.ended is None and self.launcher.alive()  # in the launcher itself, and never started again
        lives = debugged if number is None else runs_with(number, str(self.folder))
        return slurm_state.Seen("RUNNING" if lives else "ENDED")

    def reason(self, seen: slurm_state.Seen | None = None) -> str:
        """Why it ended without a result, in one line. seen: where it has been asked already."""
        seen = seen or look([self])[0]  # first: a run that ends meanwhile has written how
        log = "".join(slurm_state.end_of(file) for file in self.log)
        said = slurm_state.explain(self.ended, seen, log)
        return f"{said}: {', '.join(self.after)}" if said == slurm_state.WAITED and self.after else said


def look(jobs: Sequence[SubmissionRow]) -> list[slurm_state.Seen | None]:
    """What Slurm and this machine say; one call of Slurm for all. Runs that are done are not asked about."""
    slurm = [j.job_id for j in jobs if j.cluster == "slurm" and j.job_id]
    seen = slurm_state.look_all(slurm)
    return [seen[j.job_id or ""] if j.cluster == "slurm" and j.job_id else j.here() for j in jobs]


def states(jobs: Sequence[SubmissionRow]) -> list[str]:
    """The state of each, see SubmissionRow.state; one call of Slurm however many they are."""
    ended = [job.ended for job in jobs]
    open_ = [k for k, end in enumerate(ended) if end is None or end["outcome"] == "failed"]
    seen = dict(zip(open_, look([jobs[k] for k in open_]), strict=True))
    for k in open_:  # anew: a run that ended meanwhile has written how
        ended[k] = jobs[k].ended
    return [slurm_state.judge(end, seen.get(k)) for k, end in enumerate(ended)]


def row_of(folder: Path, submission: Submission, row: StoredRow) -> SubmissionRow:
    """One run of a submission in `folder`."""
    common = submission.model_dump(exclude={"format", "runs", "launcher"})
    run = None if row.run is None else Path(row.run)
    own = {"job_id": row.job, "run_folder": run, **row.model_dump(exclude={"job", "run"})}
    return SubmissionRow(folder=folder, launcher=submission.launcher, **common, **own)


def read_submission(folder: Path) -> list[SubmissionRow]:
    """The runs that were submitted with `folder` for their logs. Raises InputError with one line."""
    file = folder / FILE
    try:
        found = validate(Submission, read_json(file))
    except ConfigError as error:
        raise InputError(f"{file} is not the record of a submission: {error.problems[0]}") from None
    except Unreadable as error:
        raise InputError(f"cannot read {file}: {error}") from None
    return [row_of(folder.absolute(), found, row) for row in found.runs]


def free_folder(folder: Path) -> Path:
    """folder/job-1, or the next number."""
    taken = [int(p.name[4:]) for p in folder.glob("job-*") if FOLDER.fullmatch(p.name)]
    return folder / f"job-{max(taken, default=0) + 1}"


def find_submissions(tops: Iterable[Path]) -> list[SubmissionRow]:
    """All runs of the submissions at or below `tops`, in the order of submission, each once. Raises InputError."""
    found: dict[Path, None] = {}
    for top in tops:
        check_folder(top)
        for place, folders, files in os.walk(top.resolve()):
            if FILE in files and FOLDER.fullmatch(Path(place).name):
                found[Path(place)] = None
                folders.clear()
            folders[:] = [name for name in folders if not name.startswith(".") and name != "checkpoints"]
    runs = [run for folder in found for run in read_submission(folder)]
    return sorted(runs, key=lambda run: (run.created, str(run.folder), run.index))
