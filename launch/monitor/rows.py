"""Run folders and submissions as rows: what state each run is in, how far it is and what is left."""

import functools
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.jobs import slurm_state, submission_record
from launch.jobs.attempts import read_starts
from launch.jobs.submission_record import SubmissionRow
from launch.monitor.progress import Progress, is_held, locked_inodes, read_progress
from pipeline.contracts import InputError
from pipeline.run_folder.record import CONFIG, check_folder, entered

# In the order of the total, and of what a screen too small for all shows first.
STATES = ("done", "running", "requeued", "waiting", "stopped", "failed", "unknown")
URGENT = ("running", "failed", "requeued", "unknown", "waiting", "stopped", "done")
ABOVE = 5  # folders above the one asked for in which its submission may lie: SWEEP/DATASET/METHOD/PAIR/SEED


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run. state: of STATES; reason: why it is in it, or what else is to be said; job: '' where none is known.

    epoch: finished ones; accuracies in per cent on the test set; seconds_left: to the end of the run; restarts: starts
    after the first one. None: not known (yet).
    """

    name: str
    folder: str
    state: str
    reason: str
    epoch: int
    epochs: int | None
    step: int | None
    top1_last: float | None
    top1_best: float | None
    images_per_second: float | None
    seconds_left: float | None
    restarts: int
    job: str
    cluster: str
    entry: str
    log: str


@dataclass(frozen=True)
class Asked:
    """A job and what its scheduler says of it. seen: None where nothing answers, and for what is done."""

    job: SubmissionRow
    seen: slurm_state.Seen | None

    @functools.cached_property
    def state(self) -> str:
        """Of launch.jobs.slurm_state.judge."""
        return slurm_state.judge(self.job.ended, self.seen)

    @functools.cached_property
    def starts(self) -> int:
        """Times that it was started, as far as is known."""
        requeued = self.seen.restarts if self.seen else 0
        return max(read_starts(self.job.folder, self.job.index).count, requeued + 1 if requeued else 0)


@functools.lru_cache(maxsize=4096)
def _reason(job: SubmissionRow, seen: slurm_state.Seen | None) -> str:
    """Why a job ended without a result, in one line. Cached: it reads the end of a log."""
    said = " ".join(job.reason(seen).split())
    if not re.fullmatch(r"exit code \d+", said):
        return said
    last = [line for file in job.log[:1] for line in slurm_state.end_of(file).splitlines()]
    return next((line.strip() for line in reversed(last) if line.strip()), said)  # an entry point's last word


def find(top: Path) -> tuple[list[Path], list[Path]]:
    """(run folders, submissions) at or below `top`, resolved and sorted; set-aside runs only where named."""
    runs, jobs = [], []
    for place, folders, files in os.walk(top.resolve()):
        if submission_record.FILE in files:
            jobs.append(Path(place))
            folders.clear()  # logs and a copy of the code
        elif CONFIG in files:
            runs.append(Path(place))
            folders[:] = [f for f in folders if submission_record.FOLDER.fullmatch(f)]
        else:
            folders[:] = entered(folders)
    return sorted(runs), sorted(jobs)


def collect(tops: Sequence[Path]) -> list[Row]:
    """A row for each run at or below `tops`, folders first, then what has none. Raises InputError."""
    places: dict[Path, Path] = {}  # run folder -> the top that it was found under
    jobs: dict[Path, None] = {}
    for top in tops:
        check_folder(top)
        runs, below = find(top)
        above = (f for parent in top.resolve().parents[:ABOVE] for f in parent.glob(f"job-*/{submission_record.FILE}"))
        jobs.update(dict.fromkeys([*below, *(file.parent for file in above)]))
        for run in runs:
            places.setdefault(run, top.resolve())
    roots = [top.resolve() for top in tops]
    unreadable: dict[Path, str] = {}
    latest = _latest(jobs, roots, unreadable)
    for folder, job in latest.items():
        places.setdefault(folder, next(r for r in roots if _within(folder, r) or _within(job.folder, r)))
    rows = _rows(places, _ask(latest), many=len(tops) > 1)
    return rows + [_row(str(f), f, "unknown", why, Progress(), None) for f, why in unreadable.items()]


def _latest(folders: Iterable[Path], roots: Sequence[Path], unreadable: dict[Path, str]) -> dict[Path, SubmissionRow]:
    """The last submission of each run that lies, or was sent from, below `roots`; why others cannot be read."""
    recorded: list[SubmissionRow] = []
    for folder in folders:
        try:
            recorded += submission_record.read_submission(folder)
        except InputError as error:
            unreadable[folder] = str(error)
    latest: dict[Path, SubmissionRow] = {}
    for job in sorted(recorded, key=lambda j: (j.created, str(j.folder), j.index)):
        for run in run_folders(job):
            if any(_within(run, root) or _within(job.folder, root) for root in roots):
                latest[run] = job
    return latest


def run_folders(job: SubmissionRow) -> list[Path]:
    """Where a job trains: one folder, or one for each of seeds=N; for other entry points a name in its own folder."""
    if job.entry != "train" or job.run_folder is None:
        return [job.folder / f"{job.entry}-{job.index}"]
    seeds, seed = (_number(job.words, key, default) for key, default in (("seeds", 1), ("seed", 0)))
    folder = job.run_folder.resolve()
    return [folder] if seeds == 1 else [folder / f"seed{seed + k}" for k in range(min(seeds, 10_000))]


def _number(words: Sequence[str], key: str, default: int) -> int:
    given = [int(word.partition("=")[2]) for word in words if re.fullmatch(rf"{key}=\d{{1,15}}", word)]
    return given[-1] if given else default


def _ask(latest: Mapping[Path, SubmissionRow]) -> dict[Path, Asked]:
    """What the scheduler says of each, in one call for all jobs that are not done."""
    jobs = list(dict.fromkeys(latest.values()))
    asked = [job for job in jobs if (job.ended or {}).get("outcome") != "done"]
    seen = dict(zip(asked, submission_record.look(asked), strict=True))
    found = {job: Asked(job, seen.get(job)) for job in jobs}
    return {folder: found[job] for folder, job in latest.items()}


def _rows(places: Mapping[Path, Path], asked: Mapping[Path, Asked], *, many: bool) -> list[Row]:
    inodes = locked_inodes()
    begun: set[SubmissionRow] = set()  # seeds=N trains one after the other: after the first unfinished one, all wait
    rows = []
    for folder, top in sorted(places.items(), key=_order):
        progress = read_progress(folder) if (folder / CONFIG).exists() else None
        ask = asked.get(folder)
        state, reason = judge(progress, ask, held=progress is not None and is_held(folder, inodes))
        if ask is not None and state == "running" and progress is None and ask.job in begun:
            state = "waiting"
        if ask is not None and state == "running":
            begun.add(ask.job)
        rows.append(_row(_name(folder, top, many=many), folder, state, reason, progress or Progress(), ask))
    return rows


def _order(place: tuple[Path, Path]) -> list[tuple[int, str]]:
    """seed2 before seed10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(place[0]))]


def judge(progress: Progress | None, ask: Asked | None, *, held: bool) -> tuple[str, str]:
    """(state, reason) of a run. progress: None for one without a folder; held: a process of this machine trains it."""
    if progress is not None and progress.finished:
        return "done", ""
    note = "" if progress is None else progress.problem or progress.note
    if held:
        return "running", note
    if ask is None:
        return ("unknown" if progress is None or progress.problem else "stopped"), note or _how_far(progress)
    if ask.state == "running":
        return "running", note
    if ask.state == "pending":
        return "requeued" if ask.starts else "waiting", note
    if ask.state == "done":
        return ("done", note) if ask.job.entry != "train" else ("stopped", note or "the job is done, the run is not")
    if ask.state == "unknown":
        return "unknown", "the scheduler does not answer"
    state = "failed" if ask.state in ("failed", "timeout") else "stopped"
    return state, _reason(ask.job, ask.seen)


def _how_far(progress: Progress | None) -> str:
    if progress is None or progress.checkpoint:
        return ""
    return "no checkpoint yet"


def _row(name: str, folder: Path, state: str, reason: str, progress: Progress, ask: Asked | None) -> Row:
    job = ask.job if ask else None
    return Row(
        name=name,
        folder=str(folder),
        state=state,
        reason=reason,
        epoch=progress.epoch,
        epochs=progress.epochs,
        step=progress.step,
        top1_last=progress.top1_last,
        top1_best=progress.top1_best,
        images_per_second=progress.images_per_second,
        seconds_left=seconds_left(progress, time.time()) if state == "running" else None,
        restarts=max(progress.resumed, ask.starts - 1 if ask else 0),
        job=(job.job_id or "") if job else "",
        cluster=job.cluster if job else "",
        entry=job.entry if job else "train",
        log=str(job.log[0]) if job and job.log else "",
    )


def seconds_left(progress: Progress, now: float) -> float | None:
    """Time of an epoch (with its evaluation) by the epochs that are left, less what the present one has taken.

    None before the first epoch is done. now: Unix time.
    """
    if progress.epochs is None or progress.epoch_seconds is None:
        return None
    present = min(max(now - progress.changed, 0.0), progress.epoch_seconds)
    return max((progress.epochs - progress.epoch) * progress.epoch_seconds - present, 0.0)


def total(rows: Iterable[Row]) -> dict[str, int]:
    """{'runs': all, state: how many}, states without any left out."""
    counted = Counter(row.state for row in rows)
    return {"runs": counted.total()} | {state: counted[state] for state in STATES if counted[state]}


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """What format=json prints."""
    return {"runs": [asdict(row) for row in rows], "total": total(rows)}


def _name(folder: Path, top: Path, *, many: bool) -> str:
    if folder == top or not _within(folder, top):
        return folder.name if folder == top else str(folder)
    return str(Path(top.name) / folder.relative_to(top)) if many else str(folder.relative_to(top))


def _within(folder: Path, top: Path) -> bool:
    return folder.is_relative_to(top)
