"""Records of runs and submissions, damaged: every reader shows the others, or says in one line what is wrong."""

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from fuzzing import assert_no_faults, command, cut, flipped, judge
from json_damage import damaged

from launch import scaling, status, table
from pipeline import visualize

CONFIG = Path(__file__).parents[1] / "past" / "runs" / "teacher"  # a finished run of an earlier version
STARTS = {"count": 2, "failures": 0, "idle": 0, "mark": "1", "why": "time limit"}
REPORT = {
    "step": {"training loop": {"ms_per_step": 3.0}},
    "images_a_step": 64,
    "parameters": 1000,
    "loaders": {"resident": {"images_per_second": 10.0}},
    "loader": "resident",
}


def submission(top: Path, run: Path) -> dict[str, object]:
    """One run, sent to this machine and to a Slurm."""
    row = {"index": 0, "job": "77", "tasks": 1, "words": ["dataset=cifar100"], "run": str(run), "packed": False}
    return {
        **{"format": 1, "cluster": "local", "entry": "train", "host": os.uname().nodename, "created": 1e9},
        **{"launcher": {"pid": 1, "started": 1}, "after": [], "runs": [row, {**row, "index": 1, "job": None}]},
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Two runs with all that lies in them, and a submission; the content of each file by name."""
    for name in ("good", "bad"):
        run = folder / "runs" / name
        shutil.copytree(CONFIG, run, ignore=shutil.ignore_patterns("*.pt", "*.safetensors"))
    job = folder / "runs" / "bad" / "job-1"
    job.mkdir()
    job_text = json.dumps(submission(folder, folder / "runs" / "bad"))
    (job / "submission.json").write_text(job_text)
    (job / "run-0.json").write_text(json.dumps({"outcome": "failed", "message": "exit code 1"}))
    (job / "run-0.starts.json").write_text(json.dumps(STARTS))
    (job / "77_0_log.out").write_text("error: no such file\n")
    (folder / "report.json").write_text(json.dumps(REPORT))
    names = ["config.yaml", "metrics.jsonl", "summary.json", "environment.json"]
    files = [folder / "runs" / "bad" / name for name in names] + [folder / "report.json"]
    files += [job / name for name in ("submission.json", "run-0.json", "run-0.starts.json", "77_0_log.out")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def spoiled(name: str, content: bytes, rng: random.Random) -> bytes:
    """A file with something wrong in it."""
    if name.endswith(".jsonl"):
        lines = content.splitlines()
        lines[rng.randrange(len(lines))] = damaged(json.loads(lines[0]), rng)
        return b"\n".join(lines) + b"\n"
    if name.endswith(".json") and rng.random() < 0.9:
        return damaged(json.loads(content), rng)
    if rng.random() < 0.3:
        return rng.choice([b"", b"\xff", b"a: &a [*a]", b"{a: " * 900, b"run: 3\noptim: []\n", b"[" * 9000])
    if rng.random() < 0.5:
        lines = content.decode().splitlines()
        at = rng.randrange(len(lines))
        value = rng.choice(["null", "[]", "{}", "9" * 5000, ".nan", "!!binary aGk=", "1e999", "2024-13-45", "-1", "x"])
        lines[at] = f"{lines[at].partition(':')[0]}: {value}"
        return "\n".join(lines).encode()
    return cut(content, rng) if rng.random() < 0.5 else flipped(content, rng, 3)


def put(file: Path, content: bytes | str) -> None:
    """The content, or a thing of another kind in its place."""
    file.unlink()
    if content == "folder":
        file.mkdir()
    elif content == "fifo":
        os.mkfifo(file)
    elif content == "loop":
        file.symlink_to(file.name)
    elif content == "zero":
        file.symlink_to("/dev/zero")
    elif isinstance(content, bytes):
        file.write_bytes(content)


READERS = {
    "status": lambda top: command(status, [str(top / "runs"), "live=false"]),
    "json": lambda top: command(status, [str(top / "runs"), "format=json"]),
    "table": lambda top: command(table, [str(top / "runs")]),
    "plan": lambda top: command(scaling, [f"from={top / 'report.json'}"]),
    "curves": lambda top: command(visualize, ["what=curves", f"runs={top / 'runs'}", f"out={top / 'x.png'}"]),
    "speed": lambda top: command(visualize, ["what=speed", f"runs={top / 'runs'}", f"out={top / 'x.png'}"]),
}


def attempt(case: tuple[str, str, bytes | str], top: Path, contents: dict[str, bytes]) -> None:
    """One reader over the tree with one file spoiled; the tree is as it was afterwards."""
    reader, name, content = case
    put(top / name, content)
    try:
        READERS[reader](top)
    finally:
        file = top / name
        with contextlib.suppress(OSError):
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
        file.write_bytes(contents[name])


def cases(contents: dict[str, bytes], rng: random.Random, number: int) -> list[tuple[str, str, bytes | str]]:
    """(reader, file, its content)."""
    made: list[tuple[str, str, bytes | str]] = []
    for _ in range(number):
        name = rng.choice([*contents])
        kind = rng.choice(["folder", "fifo", "loop", "zero"]) if rng.random() < 0.1 else None
        readers = ["plan"] if name == "report.json" else ["status", "json", "table", "curves", "speed"]
        if "job-1" in name:
            readers = ["status", "json"]
        made.append((rng.choice(readers), name, kind or spoiled(name, contents[name], rng)))
    return made


@pytest.mark.slow
def test_damaged_records(tmp_path: Path, fuzz_rng: random.Random, fuzz_cases: int) -> None:
    contents = tree(tmp_path)
    found = cases(contents, fuzz_rng, fuzz_cases)
    assert_no_faults(judge(found, lambda case: attempt(case, tmp_path, contents), memory_mb=1024))


def test_a_few_damaged_records(tmp_path: Path, fuzz_rng: random.Random) -> None:
    contents = tree(tmp_path)
    found = [case for case in cases(contents, fuzz_rng, 60) if case[0] in ("status", "json", "plan")][:25]
    assert_no_faults(judge(found, lambda case: attempt(case, tmp_path, contents), memory_mb=1024), least_refused=0)
