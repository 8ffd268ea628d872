"""What became of a job: asked from Slurm itself, with and without its accounting (sacct), and said in words."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING"}
RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
OVER = {"pending": False, "running": False, "unknown": False}  # every other state is an end

# A pattern of the log, and what it means; the first one that is found counts.
SIGNS = (
    (r"CUDA out of memory|CUDA error: out of memory|torch\.OutOfMemoryError",
     "out of memory on the GPU: lower data.batch_size, or raise optim.accumulate"),
    (r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (is killed|exited unexpectedly)",
     "a data worker crashed: lower data.workers or raise cluster.mem where memory is short (shared memory counts)"),
    (r"oom[-_ ]kill|Out Of Memory|Cannot allocate memory|\bMemoryError\b",
     "out of memory on the host: raise cluster.mem, or lower data.workers"),
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """Slurm's answer: its state (upper case; '' where it does not know the job) and 'code:signal'."""

    state: str
    exit_code: str = "0:0"
    restarts: int = 0


def call(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm, bounded in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer within 20 s")


def look(job_id: str) -> Seen | None:
    """What Slurm says of a job; None when Slurm itself does not answer."""
    shown = call("scontrol", "-o", "show", "job", job_id)
    if shown.returncode == 0 and "JobState=" in shown.stdout:
        fields = dict(re.findall(r"\b(JobState|ExitCode|Restarts)=(\S+)", shown.stdout.splitlines()[0]))
        return Seen(fields["JobState"], fields.get("ExitCode", "0:0"), int(fields.get("Restarts", 0)))
    if "Invalid job id" not in shown.stderr:
        return None
    if shutil.which("sacct"):  # the controller forgets a job after MinJobAge, 300 s by default
        told = call("sacct", "-n", "-X", "-P", "-o", "State,ExitCode", "-j", job_id)
        if told.returncode == 0 and told.stdout.strip():
            state, code = told.stdout.strip().splitlines()[-1].split("|")[:2]
            return Seen(state.split()[0], code)
    return Seen("")


def judge(ended: dict[str, str] | None, seen: Seen | None) -> str:
    """pending, running, done, failed, cancelled, timeout, lost or unknown.

    ended: what the run wrote at its end. A failure that is being started again counts as pending.
    """
    if ended is not None and ended["outcome"] == "done":
        return "done"
    if seen is None:
        return "unknown"
    if seen.state in WAITING or seen.state in RUNNING:
        return "pending" if seen.state in WAITING else "running"
    if ended is not None:
        return "failed"
    return {"CANCELLED": "cancelled", "TIMEOUT": "timeout", "": "lost"}.get(seen.state, "failed")


def explain(ended: dict[str, str] | None, seen: Seen | None, log: str) -> str:
    """Why a job ended without a result, in one line."""
    state, (code, number) = (seen.state, seen.exit_code.split(":")) if seen else ("", ("0", "0"))
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return "node failure: the machine died or lost its connection"
    if state == "OUT_OF_MEMORY":
        return SIGNS[2][1]
    if state == "CANCELLED":
        return "cancelled"
    for pattern, meaning in SIGNS:
        if re.search(pattern, log, re.IGNORECASE if meaning is SIGNS[2][1] else 0):
            return meaning
    if state in ("TIMEOUT", "DEADLINE"):
        return "stopped at the time limit before a checkpoint was written: raise cluster.time or cluster.signal_delay"
    if code in ("137", "9") or number == "9" or re.search(r"task \d+: Killed", log):
        return "killed by SIGKILL: by somebody, or by the system for want of memory"
    if ended is not None:
        return ended.get("message", "failed")
    if state == "":
        return "Slurm no longer knows the job, and it left no result"
    return f"ended without a result: Slurm says {state}, exit code {code}, signal {number}"


def tail(files: list[Path], lines: int) -> str:
    """The last lines of a log; those of further ranks that hold an error follow."""
    text = []
    for number, file in enumerate(files):
        content = file.read_text(errors="replace") if file.exists() else ""
        if number == 0 or re.search(r"Traceback|rror:", content):
            text += [f"--- {file}", *content.splitlines()[-lines:]]
    return "\n".join(text)
