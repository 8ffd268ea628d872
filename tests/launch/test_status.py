"""What launch/status.py says of runs in every state, how often it asks Slurm, and what it does on a terminal."""

import fcntl
import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli
import pytest
from run_folders import make_run

from launch import status
from launch.jobs import slurm_state
from launch.jobs.attempts import Starts, write_ended, write_starts
from launch.jobs.processes import this_process
from launch.jobs.submission_record import StoredRow as Entry
from launch.jobs.submission_record import Submission
from launch.monitor import progress, screen
from launch.monitor import rows as status_rows
from launch.monitor.rows import Row, collect
from pipeline.run_folder.checkpoint_file import seal

RUN = ("dataset=synthetic", "model=resnet8")
Capture = pytest.CaptureFixture[str]


def metrics(folder: Path, *top1: float | None, seconds: float = 10.0) -> Path:
    """metrics.jsonl with an epoch for each; None: not evaluated. The writer is inside a further line."""
    text = ""
    for number, value in enumerate(top1, 1):
        record = {"epoch": number, "seconds": 100.0 if number == 1 else seconds, "images_per_second": 1500.0}
        text += json.dumps(record | {"test_top1": value, "val_top1": value}) + "\n"
    (folder / "metrics.jsonl").write_text(text + '{"epoch": 99, "se')
    return folder


def checkpoint(folder: Path, resumed: int = 0, done: int = 189) -> Path:
    (folder / "checkpoints").mkdir()
    position = {"done": done, "closed": 3, "steps_per_epoch": 63}
    (folder / "checkpoints" / "last.pt").write_bytes(seal({"position": position, "resumed": resumed}))
    return folder


def submit(folder: Path, *runs: Path, cluster: str = "slurm", created: float = 1.0, **more: Any) -> Path:
    """`folder` as launch/submit.py leaves it, with a run for each of `runs`; jobs 7_0, 7_1, ... unless given."""
    folder.mkdir(parents=True)
    rows = tuple(
        Entry(index=k, job=more.get("job", f"7_{k}"), tasks=1, words=more.get("words", RUN), run=str(run))
        for k, run in enumerate(runs)
    )
    Submission(
        cluster=cluster, entry=more.get("entry", "train"), host=socket.gethostname(), created=created,
        launcher=this_process(), runs=rows,
    ).write(folder)  # fmt: skip
    return folder


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Slurm's states by job, to be filled in; 'calls' counts how often it was asked."""
    known = {"calls": ""}

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        known["calls"] += "x"
        rows = [f"{job} {state} 0 0 None" for job, state in known.items() if job != "calls"]
        return subprocess.CompletedProcess(command, 0, "\n".join(rows), "")

    monkeypatch.setattr(slurm_state, "call", call)
    monkeypatch.setattr(slurm_state.shutil, "which", lambda name: None)  # no accounting
    return known


def by_name(*tops: Path) -> dict[str, Row]:
    return {row.name: row for row in collect(list(tops))}


def test_done_stopped_and_running_here(tmp_path: Path) -> None:
    done = make_run(tmp_path / "done", *RUN, "optim.epochs=3", last=40.0, best=50.0, images_per_second=2000, resumed=2)
    metrics(done, 30.0, 50.0, 40.0)
    checkpoint(metrics(make_run(tmp_path / "stopped", *RUN), 30.0, 45.0, None), resumed=1)
    going = metrics(make_run(tmp_path / "going", *RUN, "optim.epochs=9"), 30.0, 45.0, 41.0)
    make_run(tmp_path / "fresh", *RUN)
    with (going / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = by_name(tmp_path)
    assert {name: row.state for name, row in found.items()} == {
        "done": "done", "fresh": "stopped", "going": "running", "stopped": "stopped",
    }  # fmt: skip
    row = found["done"]
    assert (row.epoch, row.epochs, row.top1_last, row.top1_best) == (3, 3, 40.0, 50.0)
    assert (row.restarts, row.images_per_second, row.seconds_left) == (2, 2000, None)
    row = found["stopped"]
    assert (row.epoch, row.epochs, row.top1_last, row.top1_best, row.restarts) == (3, 9, 45.0, 45.0, 1)
    row = found["going"]
    assert row.top1_last == 41.0 and row.images_per_second == 1500
    assert row.seconds_left is not None and 50 <= row.seconds_left <= 60  # six epochs of 10 s, the present one begun
    assert found["fresh"].reason == "no checkpoint yet" and found["fresh"].seconds_left is None
    assert by_name(tmp_path)["going"].state == "stopped"


def test_more_epochs_than_the_summary_has(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "more", *RUN, "optim.epochs=5", last=40.0)
    summary = json.loads((folder / "summary.json").read_text()) | {"epochs": 3}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert by_name(tmp_path)["more"].state == "stopped"


def test_a_limit_of_steps_counts_as_the_end(tmp_path: Path) -> None:
    cut = checkpoint(make_run(tmp_path / "cut", *RUN, "run.limit_steps=100"), done=10)
    assert by_name(tmp_path)["cut"].epochs == 2
    (cut / "summary.json").write_text(json.dumps({"epochs": 2, "steps": 100, "top1_last": 1.0, "top1_best": 1.0}))
    row = by_name(tmp_path)["cut"]
    assert (row.state, row.step) == ("done", 100)


def test_epochs_without_evaluation_count_in_their_proportion(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "some", *RUN, "run.eval_every=4", "optim.epochs=20")
    records = [{"epoch": k, "seconds": 13.0 if k % 4 == 0 else 9.0, "test_top1": None} for k in range(1, 14)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert progress.read_progress(folder).epoch_seconds == 10.0


def test_the_schedulers_word(tmp_path: Path, slurm: dict[str, str]) -> None:
    runs = {name: tmp_path / name for name in ("queued", "again", "works", "dead", "gone", "away", "whole")}
    for name in ("again", "works", "dead", "gone", "away"):
        checkpoint(metrics(make_run(runs[name], *RUN), 30.0))
    make_run(runs["whole"], *RUN, last=60.0)
    folder = submit(tmp_path / "job-1", *runs.values())
    slurm |= {"7_0": "PENDING", "7_1": "PENDING", "7_2": "RUNNING", "7_3": "FAILED", "7_4": "CANCELLED"}
    write_starts(folder, 1, Starts(count=2))
    write_ended(folder, 3, "failed", "exit code 1")
    (folder / "7_3_0_log.out").write_text("epoch 1\nNonFiniteLoss: step 3:\x1b[2J not finite\n")
    write_ended(folder, 6, "done")
    found = by_name(tmp_path)
    assert slurm["calls"] == "x"
    assert {name: row.state for name, row in found.items()} == {
        "queued": "waiting", "again": "requeued", "works": "running", "dead": "failed", "gone": "stopped",
        "away": "stopped", "whole": "done",
    }  # fmt: skip
    assert (found["again"].restarts, found["again"].job) == (1, "7_1")
    assert found["dead"].reason.startswith("NonFiniteLoss: step 3") and found["gone"].reason == "cancelled"
    assert found["queued"].epochs is None and not runs["queued"].exists()
    assert status_rows.total(found.values()) == {
        "runs": 7, "done": 1, "running": 1, "requeued": 1, "waiting": 1, "stopped": 2, "failed": 1,
    }  # fmt: skip
    assert by_name(runs["again"])["again"].state == "requeued"  # its submission lies above it


def test_silence_of_the_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(tmp_path / "job-1", checkpoint(make_run(tmp_path / "run", *RUN)))
    monkeypatch.setattr(
        slurm_state, "call", lambda *c: subprocess.CompletedProcess(c, 1, "", "Unable to contact slurm")
    )
    row = by_name(tmp_path)["run"]
    assert (row.state, row.reason) == ("unknown", "the scheduler does not answer")


def test_the_last_submission_counts(tmp_path: Path, slurm: dict[str, str]) -> None:
    run = checkpoint(make_run(tmp_path / "run", *RUN))
    submit(run / "job-2", run, created=2.0, job="9")
    write_ended(submit(run / "job-1", run, created=1.0, job="8"), 0, "failed", "node failure")
    slurm["9"] = "RUNNING"
    row = by_name(tmp_path)["run"]
    assert (row.state, row.job, len(by_name(tmp_path))) == ("running", "9", 1)


def test_seeds_in_one_job(tmp_path: Path, slurm: dict[str, str]) -> None:
    make_run(tmp_path / "pair" / "seed9", *RUN, last=60.0)
    checkpoint(metrics(make_run(tmp_path / "pair" / "seed10", *RUN), 30.0))
    submit(tmp_path / "pair" / "job-1", tmp_path / "pair", words=(*RUN, "seeds=4", "seed=9"))
    slurm["7_0"] = "RUNNING"
    found = {row.name: row.state for row in collect([tmp_path])}
    assert list(found.items()) == [
        ("pair/seed9", "done"), ("pair/seed10", "running"), ("pair/seed11", "waiting"), ("pair/seed12", "waiting"),
    ]  # fmt: skip


def test_local_jobs_and_other_entry_points(tmp_path: Path) -> None:
    submit(tmp_path / "job-1", tmp_path / "run", cluster="local", job=None)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    submit(tmp_path / "x" / "job-1", tmp_path / "x", cluster="local", entry="cache_teacher", job=dead.stdout.strip())
    found = by_name(tmp_path)
    assert (found["run"].state, found["run"].job) == ("waiting", "")
    row = found["x/job-1/cache_teacher-0"]
    assert (row.state, row.entry) == ("failed", "cache_teacher")


def test_what_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "good", *RUN, last=60.0)
    for name, text in (("list", "- a\n"), ("none", ""), ("broken", "a: [1\n"), ("binary", "\x00\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (make_run(tmp_path / "summary", *RUN) / "summary.json").write_text("{")
    damaged = checkpoint(make_run(tmp_path / "damaged", *RUN))
    (damaged / "checkpoints" / "last.pt").write_bytes(b"PK no archive")
    (tmp_path / "job-1").mkdir()
    (tmp_path / "job-1" / "submission.json").write_text('{"format": 2}')
    found = by_name(tmp_path)
    assert found["good"].state == "done" and found["damaged"].state == "stopped"
    unknown = [row for row in found.values() if row.state == "unknown"]
    assert len(unknown) == 6 and all("\n" not in row.reason and row.reason for row in unknown)


def test_unchanged_folders_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        checkpoint(metrics(make_run(tmp_path / f"run{number}", *RUN), 30.0))
    loads: list[Path] = []
    load = progress.checkpoint_head
    monkeypatch.setattr(progress, "checkpoint_head", lambda file: (loads.append(file), load(file))[1])
    collect([tmp_path])
    metrics(tmp_path / "run1", 30.0, 35.0)
    rows = collect([tmp_path])
    assert len(loads) == 4 and rows[1].epoch == 2


def test_plain_table_has_no_escape_codes(tmp_path: Path, capsys: Capture) -> None:
    make_run(tmp_path / ("long-" * 30) / "a\x1b[31m[bold]b", *RUN, last=60.0)
    code, out, _ = cli.call(status, [str(tmp_path)], capsys)
    assert code == 0 and "\x1b" not in out
    [heading, row, total] = out.splitlines()
    assert heading.split()[:3] == ["run", "state", "epoch"]
    assert row.split()[:2] == [f"{'long-' * 30}/a?[31m[bold]b", "done"] and "60.00" in row
    assert total == "1 run: 1 done, 0 running, 0 waiting, 0 failed"


def test_json_and_folders(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a/x", "b/x", "b/x.old-1"):
        make_run(tmp_path / name, *RUN, last=60.0)
    code, out, _ = cli.call(status, [str(tmp_path / "a"), str(tmp_path / "b"), "format=json", "live=true"], capsys)
    found = json.loads(out)
    assert code == 0 and [run["name"] for run in found["runs"]] == ["a/x", "b/x"]
    assert found["total"] == {"runs": 2, "done": 2} and found["runs"][0]["top1_last"] == 60.0
    (tmp_path / "empty").mkdir()
    assert cli.call(status, [str(tmp_path / "empty")], capsys)[:2] == (
        0,
        "0 runs: 0 done, 0 running, 0 waiting, 0 failed\n",
    )
    for words, text in (
        (["nowhere"], "no such folder: nowhere"),
        ([__file__], "is not a folder"),
        (["evry=2"], "did you mean 'every'?"),
        (["every=0"], "every=0"),
    ):
        code, _, err = cli.call(status, words, capsys)
        assert code == 2 and text in err and len(err.splitlines()) == 1, err


def test_a_small_screen_shows_first_what_wants_attention(tmp_path: Path) -> None:
    for number in range(30):
        make_run(tmp_path / f"r{number}", *RUN, last=60.0)
    checkpoint(make_run(tmp_path / "r30", *RUN))
    console = screen.Console(width=80, height=10, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(screen.screen(collect([tmp_path]), 80, 10))
    lines = captured.get().splitlines()
    assert len(lines) <= 9 and "and 26 more" in lines[-2] and lines[-1].startswith("31 runs: 30 done")
    assert any("r30" in line and "stopped" in line for line in lines)


@pytest.mark.parametrize("ends", [b"q", b"\x03"])
def test_live_until_q_or_ctrl_c(ends: bytes, tmp_path: Path) -> None:
    make_run(tmp_path / "one", *RUN, last=60.0)
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm", COLUMNS="100", LINES="20")
        os.execv(sys.executable, [sys.executable, status.__file__, str(tmp_path), "every=0.2"])
    seen = b""
    while seen.count(b"1 run: 1 done") < 2:  # drawn and drawn again
        seen += os.read(terminal, 65536)
    os.write(terminal, ends)
    while chunk := read_or_end(terminal):
        seen += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, seen.decode()
    assert b"Traceback" not in seen and b"one" in seen


def read_or_end(terminal: int) -> bytes:
    """What the program printed; nothing once it has closed its terminal."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
