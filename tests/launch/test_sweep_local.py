"""Real sweeps on this machine: teacher, cache and students to a table; failures; Ctrl-C and the same command again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli
import mini_cifar
import pytest

from launch import sweep
from launch.jobs.processes import runs_with

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"), train=32, test=10)


def words(data: Path, folder: Path, text: str, *more: str) -> list[str]:
    """A sweep of tiny runs."""
    file = folder / "tiny.yaml"
    file.write_text(text)
    keys = ["dataset=cifar100", "data.batch_size=16", "optim.epochs=1", "runtime.threads=1", "log.tensorboard=false"]
    own = [f"sweep={file}", "cluster=local", "cluster.parallel=2", f"run.dir={folder}/runs", f"data.root={data}"]
    return [*own, *keys, "runtime.device=cpu", *more]


CHAIN = """
title: A tiny table
axes:
  couple: [{teacher.model: resnet14, student.model: resnet8}]
  method: [kd, at]
first_seed: 1
teachers: train
cache: {views: 1}
"""


def test_a_table_from_teacher_cache_and_students(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(data, tmp_path, CHAIN, "sweep.pictures=curves")
    code, out, err = cli.call(sweep, argv, capsys)
    assert code == 0, err + out
    ended = [line.split()[6] for line in out.splitlines() if line.startswith("[")]
    cache = next(name for name in ended if name.startswith("cache/"))
    assert sorted(ended) == sorted(
        [
            "cifar100/teacher/resnet14/seed0",
            cache,
            "cifar100/kd/resnet14-resnet8/seed1",
            "cifar100/at/resnet14-resnet8/seed1",
        ]
    )
    assert ended[0].startswith("cifar100/teacher") and ended.index(cache) < ended.index(
        "cifar100/kd/resnet14-resnet8/seed1"
    )
    folder = tmp_path / "runs/tiny"
    table = (folder / "table.md").read_text()
    assert table in out and "| kd |" in table and "| at |" in table and "A tiny table" in table
    assert (
        "A tiny table" in (folder / "table.html").read_text()
        and "data:image/png" in (folder / "report.html").read_text()
    )
    assert "no run of seed" not in table
    kd = (folder / "cifar100/kd/resnet14-resnet8/seed1/config.yaml").read_text()
    assert "source: cached" in kd and str(folder / cache) in kd
    jobs = sorted(p.name for p in folder.glob("job-*"))
    code, out, err = cli.call(sweep, [*argv, "sweep.pictures=null"], capsys)
    assert code == 0 and "4 runs (1 teachers, 1 caches, 2 students): 4 done" in out and table in out, err
    assert sorted(p.name for p in folder.glob("job-*")) == jobs


FAILING = "axes: {start: [{student.checkpoint: NOTHING}, {}]}\n"


def test_a_failed_run_is_named_after_the_others_went_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(
        data, tmp_path, FAILING.replace("NOTHING", f"{tmp_path}/nothing.pth"), "model=resnet8", "sweep.pictures=null"
    )
    argv[2] = "cluster.parallel=1"
    code, out, err = cli.call(sweep, argv, capsys)
    assert code == 1 and "1 of 2 runs without a result; the same command sends them again" in err
    name = next(line.split()[6] for line in out.splitlines() if " failed " in line)
    assert f"{name} failed: exit code 2" in err and "nothing.pth" in err
    assert "1 rows" not in err and "| vanilla |" in out and "done      cifar100/vanilla/resnet8" in out
    code, out, _ = cli.call(sweep, [*argv, "sweep.dry=true"], capsys)
    assert code == 0 and "2 runs (2 students): 1 done, 1 to do" in out


def until(path: Path, process: "subprocess.Popen[str]") -> None:
    """Waits for a file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the sweep ended, or never began"
        time.sleep(0.1)


def test_ctrl_c_ends_local_runs_with_a_checkpoint_and_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    argv = words(
        data, tmp_path, "axes: {seed: [0, 1]}\n", "model=resnet8", "optim.epochs=100000", "run.checkpoint_steps=1"
    )
    argv[2] = "cluster.parallel=1"
    command = [sys.executable, str(ROOT / "launch/sweep.py"), *argv]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    )
    folder = tmp_path / "runs/tiny"
    until(folder / "cifar100/vanilla/resnet8/seed0/checkpoints/last.pt", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "1 local runs wrote their checkpoints; the same command goes on" in out, out
    [job] = [row["job"] for row in json.loads((folder / "job-1/submission.json").read_text())["runs"] if row["job"]]
    assert not runs_with(int(job), str(folder))
    assert "SIGTERM: stopped after step" in (folder / f"job-1/{job}_0_log.out").read_text()
    dry = subprocess.run([*command, "sweep.dry=true"], capture_output=True, text=True, check=True).stdout
    assert "2 runs (2 students): 2 to do" in dry
