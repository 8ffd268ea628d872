"""What became of jobs: asked from Slurm itself, with and without its accounting (sacct), and said in words."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.jobs.inherited import cleaned

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING"}
RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
OVER = {"pending": False, "running": False, "unknown": False}  # every other state is an end

WAITED = "a run that it waits for failed"
EARLY = "the signal that asks for a checkpoint came before Python had started, again and again: raise cluster.time"
FIELDS = "JobArrayID:40,State:20,exit_code:12,RestartCnt:8,Reason:60"

# A pattern of the log, and what it means; the first one that is found counts.
SIGNS = (
    (r"CUDA out of memory|CUDA error: out of memory|torch\.OutOfMemoryError",
     "out of memory on the GPU: lower data.batch_size, or raise optim.accumulate"),
    (r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (is killed|exited unexpectedly)|"
     r"data worker [\d, ]+ (was killed|ended unexpectedly)",
     "a data worker crashed: lower data.workers or raise cluster.mem where memory is short (shared memory counts)"),
    (r"oom[-_ ]kill|Out Of Memory|Cannot allocate memory|\bMemoryError\b",
     "out of memory on the host: raise cluster.mem, or lower data.workers"),
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """Slurm's answer: its state (upper case; '' where it does not know the job), 'code:signal', and why it says so."""

    state: str
    exit_code: str = "0:0"
    restarts: int = 0
    reason: str = ""


def call(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm, bounded in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, env=cleaned())
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer within 20 s")


def look(job_id: str) -> Seen | None:
    """What Slurm says of a job; None when Slurm itself does not answer."""
    return look_all([job_id])[job_id]


def look_all(job_ids: Iterable[str]) -> dict[str, Seen | None]:
    """The same of many jobs (NUMBER, or NUMBER_TASK of an array), in one call however many they are."""
    wanted = list(dict.fromkeys(job_ids))
    if not wanted:
        return {}
    arrays = wanted if len(wanted) == 1 else sorted({one.partition("_")[0] for one in wanted})
    told = call("squeue", "-h", "-r", "-t", "all", "-j", ",".join(arrays), "-O", FIELDS)
    if told.returncode != 0 and "Invalid job id" not in told.stderr:
        return dict.fromkeys(wanted)
    rows = [line.split(maxsplit=4) for line in told.stdout.splitlines()]
    known = {row[0]: Seen(row[1], wait_status(row[2]), int(row[3]), row[4].strip()) for row in rows if len(row) == 5}
    forgotten = [one for one in wanted if one not in known]  # after MinJobAge, 300 s by default
    return {one: known.get(one) for one in wanted} | (accounted(forgotten) if forgotten else {})


def accounted(job_ids: list[str]) -> dict[str, Seen | None]:
    """What the accounting says of jobs that the controller has forgotten; Seen("") without it."""
    found: dict[str, Seen | None] = {one: Seen("") for one in job_ids}
    if not shutil.which("sacct"):
        return found
    arrays = ",".join(sorted({one.partition("_")[0] for one in job_ids}))
    told = call("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode", "-j", arrays)
    rows = [line.split("|") for line in told.stdout.splitlines()] if told.returncode == 0 else []
    return found | {row[0]: Seen(row[1].split()[0], row[2]) for row in rows if row[0] in found and row[1]}


def wait_status(number: str) -> str:
    """'code:signal' of the number that waitpid gave."""
    value = int(number) if number.isdigit() else 0
    return f"{value >> 8}:{value & 127}"


def judge(ended: Mapping[str, str] | None, seen: Seen | None) -> str:
    """pending, running, done, failed, cancelled, timeout, lost or unknown.

    ended: what the run wrote at its end, or what was written for one that was never started. A failure that is being
    started again counts as pending.
    """
    if ended is not None and ended["outcome"] in ("done", "cancelled"):
        return ended["outcome"]
    if seen is None:
        return "unknown"
    if seen.state in WAITING or seen.state in RUNNING:
        return "pending" if seen.state in WAITING else "running"
    if ended is not None:
        return ended["outcome"]
    return {"CANCELLED": "cancelled", "TIMEOUT": "timeout", "": "lost"}.get(seen.state, "failed")


def explain(ended: Mapping[str, str] | None, seen: Seen | None, log: str) -> str:
    """Why a job ended without a result, in one line."""
    if ended is not None and ended["outcome"] == "cancelled":
        return ended["message"]
    state, (code, number) = (seen.state, seen.exit_code.split(":")) if seen else ("", ("0", "0"))
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return "node failure: the machine died or lost its connection"
    if state == "OUT_OF_MEMORY":
        return SIGNS[2][1]
    if state == "CANCELLED":
        return WAITED if seen is not None and seen.reason == "DependencyNeverSatisfied" else "cancelled"
    for pattern, meaning in SIGNS:
        if re.search(pattern, log, re.IGNORECASE if meaning is SIGNS[2][1] else 0):
            return meaning
    if state in ("TIMEOUT", "DEADLINE"):
        return "stopped at the time limit before a checkpoint was written: raise cluster.time or cluster.signal_delay"
    if code == "140":
        return EARLY
    if code in ("137", "9") or number == "9" or re.search(r"task \d+: Killed", log):
        return "killed by SIGKILL: by somebody, or by the system for want of memory"
    if ended is not None:
        return ended.get("message", "failed")
    if state == "ENDED":
        return "the process is gone and left no result: killed, or the machine was restarted"
    if state == "":
        return "Slurm no longer knows the job, and it left no result"
    return f"ended without a result: Slurm says {state}, exit code {code}, signal {number}"


def end_of(file: Path, most: int = 100_000) -> str:
    """The last bytes of a log as text; '' where there is none."""
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as handle:
            handle.seek(max(0, file.stat().st_size - most))
            return handle.read(most).decode(errors="replace")
    except OSError:
        return ""


def tail(files: list[Path], lines: int) -> str:
    """The last lines of a log; those of further ranks that hold an error follow."""
    text = []
    for number, file in enumerate(files):
        content = end_of(file)
        if number == 0 or re.search(r"Traceback|rror:", content):
            text += [f"--- {file}", *content.splitlines()[-lines:]]
    return "\n".join(text)
