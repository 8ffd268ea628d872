"""Small files that a job leaves beside its logs: how each run ended, and how often it was started."""

import contextlib
import fcntl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from pipeline.config.base import Section
from pipeline.utils.atomic import write_json
from pipeline.utils.untrusted_files import Unreadable, read_object

IDLE = 3  # starts in a row without progress after which a run is given up
TAKEN = "pre-empted"
OUTCOMES = ("done", "failed", "cancelled")


class Starts(Section):
    """count: starts so far; failures: those that ended in an error; why: what ended the last one, where it could say.

    mark: how far the run was when it was last started; idle: starts in a row that ended with nothing saved, for another
    reason than an error (which cluster.retries counts) or pre-emption (a busy cluster may take a job any number of
    times).
    """

    count: int = 0
    failures: int = 0
    idle: int = 0
    mark: str = ""
    why: str = ""


def next_start(before: Starts, mark: str) -> Starts:
    """The record of one more start, at `mark`."""
    stuck = before.count > 0 and before.mark == mark
    counts = stuck and before.why not in ("failed", TAKEN)
    idle = before.idle + counts if stuck else 0
    return before.model_copy(update={"count": before.count + 1, "idle": idle, "mark": mark, "why": ""})


def newest(patterns: Iterable[str]) -> str:
    """The time of the newest file that fits (patterns are absolute): differs after anything was saved."""
    times = [0]
    for file in files_like(patterns):
        with contextlib.suppress(FileNotFoundError):
            times.append(file.stat().st_mtime_ns)
    return str(max(times))


def files_like(patterns: Iterable[str]) -> Iterator[Path]:
    """What fits absolute patterns."""
    return (file for pattern in patterns for file in Path("/").glob(pattern.lstrip("/")))


def wait_for_locks(patterns: Iterable[str], seconds: float = 60) -> None:
    """Returns when nobody holds the run folders that these checkpoints lie in: a start that Slurm ended may take its
    time to die, above all on a machine that Slurm has lost. After `seconds` training itself says who is in the way."""
    deadline = time.monotonic() + seconds
    locks = files_like(str(Path(pattern).parents[1] / ".lock") for pattern in patterns)
    for lock in locks:
        with lock.open("a") as handle:
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.2)


def ended_file(folder: Path, index: int) -> Path:
    """File that says how run `index` ended."""
    return folder / f"run-{index}.json"


def read_ended(folder: Path, index: int) -> Mapping[str, str] | None:
    """What a run wrote at its end: outcome (done, failed, cancelled) and perhaps a message; None while it has not."""
    try:
        found = read_object(ended_file(folder, index))
    except Unreadable:
        return None
    if found.get("outcome") not in OUTCOMES or not isinstance(found.get("message", ""), str):
        return None
    return {name: str(found[name]) for name in ("outcome", "message") if name in found}


def write_ended(folder: Path, index: int, outcome: str, message: str = "") -> None:
    """How run `index` ended."""
    write_json(ended_file(folder, index), {"outcome": outcome} | ({"message": message} if message else {}))


def starts_file(folder: Path, index: int) -> Path:
    """File that counts the starts of run `index`."""
    return folder / f"run-{index}.starts.json"


def read_starts(folder: Path, index: int) -> Starts:
    """The starts of run `index` so far."""
    try:
        return Starts.model_validate(read_object(starts_file(folder, index)), strict=True)
    except (Unreadable, ValidationError):
        return Starts()


def write_starts(folder: Path, index: int, starts: Starts) -> None:
    """The starts of run `index`, atomically."""
    write_json(starts_file(folder, index), starts.model_dump())


def begin(folder: Path, index: int, marks: Sequence[str]) -> str:
    """Counts a start of run `index`. Returns why the run is given up, '' where it may start. marks: of its RunSpec."""
    ended_file(folder, index).unlink(missing_ok=True)
    starts = next_start(read_starts(folder, index), newest(marks))
    if starts.idle >= IDLE:
        message = f"{starts.idle} starts in a row ended before anything was saved: the time limit is shorter than "
        message += "start-up and one step (raise cluster.time), or something else ends the job early"
        write_ended(folder, index, "failed", message)
        return message
    write_starts(folder, index, starts)
    if starts.count > 1:
        wait_for_locks(marks)
    return ""


def log_file(folder: Path, index: int) -> Path:
    """What run `index` prints where several share a GPU."""
    return folder / f"run-{index}.log"


def note_end(folder: Path, index: int, why: str) -> Starts:
    """Why the present start of run `index` ends; returns all starts."""
    before = read_starts(folder, index)
    starts = before.model_copy(update={"why": why, "failures": before.failures + (why == "failed")})
    write_starts(folder, index, starts)
    return starts
