"""The scripts of tools/gpu with a stand-in for the interpreter: order, limits, the table, the words of their runs."""

import os
import pickle
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.cache_keys import CacheTeacherConfig
from pipeline.builders.names import config_of, train_config
from tools.gpu import check, unpack, wheels
from tools.gpu.probes import STAGES

ROOT = Path(__file__).resolve().parents[2]
PATIENT = {"LIMIT": "1800", "PATIENCE": "20"}  # a busy machine is no failure
# Notes its words; fails, hangs or passes as the name of the stage or run says.
STAND_IN = """#!/bin/sh
echo "$@" >> "$NOTES"
case "$*" in
  *check.py*) exit 0 ;;
  *"probe.py parity"*) echo "parity | one step | 1.0 | FAILED" >> "$OUT/lines"; exit 1 ;;
  *"probe.py tolerance"*) exec sleep 60 ;;
esac
echo "last line of $2"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    own = {"PYTHON": str(python), "NOTES": str(tmp_path / "notes"), "DEVICE": "cpu", "OUT": str(tmp_path / "out")}
    places = {"LOGS": str(tmp_path / "logs"), "WHEELS": str(tmp_path / "whl"), "SCRATCH": str(tmp_path / "scratch")}
    return {**os.environ, **own, **places}


def started(environment: dict[str, str], *words: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)


def notes(environment: dict[str, str]) -> list[str]:
    return Path(environment["NOTES"]).read_text().splitlines()


def test_prove_goes_on_after_a_failure_and_says_it_first(environment: dict[str, str]) -> None:
    done = started(environment | {"LIMIT": "2", "LEAST": "1"}, "tools/gpu/prove.sh")
    assert done.returncode == 1, done.stderr
    table = done.stdout.split("== prove", 1)[1].splitlines()[1:]
    failed, rows = table[: table.index("--")], table[table.index("--") + 1 :]
    assert failed[0] == "parity | one step | 1.0 | FAILED"
    assert failed[-1].startswith("tolerance | the whole | code 124") and len(failed) == 3
    assert rows[0].startswith("env | the whole | code 0") and rows[-1].endswith("left out, no time")
    assert {line.split(" ")[1] for line in notes(environment) if "probe.py" in line} < set(STAGES)
    out = Path(environment["OUT"])
    assert (out / "lines-prove").read_text().splitlines() == rows
    with tarfile.open(out / "logs-prove.tgz") as archive:
        assert {"./lines", "./env.log", "./parity.log"} <= set(archive.getnames())


def test_train_starts_runs_that_can_be_configured(environment: dict[str, str], tmp_path: Path) -> None:
    for half in ("a", "b"):
        (tmp_path / half / "train").mkdir(parents=True)
    done = started(environment | {"SHEETS": f"{tmp_path}/a {tmp_path}/b"}, "tools/gpu/train.sh")
    assert done.returncode == 0 and done.stdout.count("| ok") == 10, done.stdout + done.stderr
    words = [line.split() for line in notes(environment)]
    runs = [line[1:] for line in words if line[0] == "pipeline/train.py"]
    assert [train_config(run).run.name for run in runs] == ["teacher", "cached", "live"]
    assert train_config(runs[1]).teacher.source == "cached" and train_config(runs[2]).run.limit_steps == 30_000
    (cache,) = [line[1:] for line in words if line[0] == "data_prep/cache_teacher.py"]
    config = config_of(CacheTeacherConfig, cache)
    assert config.cache.views == 24


def test_train_without_sheets_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    done = started(environment | {"SHEETS": str(tmp_path / "none")}, "tools/gpu/train.sh")
    assert done.returncode == 2 and done.stderr.startswith("error: no class sheets in ")


def test_without_a_gpu_the_tests_are_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = started(environment | {"PYTHON": "no-python"}, "tools/gpu/test.sh")
    assert (done.returncode, done.stderr) == (2, "error: there is no no-python\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (check.lacking("cpu"), str(check.lacking("cuda"))[:7]) == (None, "no GPU:")
    monkeypatch.setattr(check, "NEEDED", {"no_such_package"})
    assert " lacks no_such_package (tools/gpu/prepare.sh" in str(check.lacking("cpu"))


def test_wheels_are_what_setup_cfg_asks_for_besides_torch_and_its_companions() -> None:
    assert {wheels.name_of(line) for line in wheels.lacking()} == {"pydantic", "simplejpeg", "submitit"}
    assert all("==" in line for line in wheels.lacking())
    assert set(wheels.lacking(())) > set(wheels.lacking()) and len(check.NEEDED) == len(wheels.lacking(()))


def test_prepare_lays_out_what_users_know(environment: dict[str, str], tmp_path: Path) -> None:
    """In a copy of the tool: the layout that a bare machine is given."""
    root = tmp_path / "root"
    (root / "tools").mkdir(parents=True)
    (root / "tools" / "gpu").symlink_to(ROOT / "tools" / "gpu")
    sheets = tmp_path / "sheets"
    for split in ("train", "test"):
        (sheets / split).mkdir(parents=True)
        for number in range(100):
            (sheets / split / f"c{number:02d}.webp").touch()
    script = (ROOT / "tools" / "gpu" / "prepare.sh").read_text().replace('cd "$(dirname "$0")/../.."', f"cd {root}")
    (tmp_path / "prepare.sh").write_text(script)
    done = started(environment | {"SKIP_WHEELS": "1"}, str(tmp_path / "prepare.sh"), str(sheets))
    assert done.returncode == 0, done.stderr
    made = {str(p.relative_to(root)) for p in (root / ".gpu").iterdir()}
    assert made == {f".gpu/{n}" for n in ("a", "b", "prove.sh", "train.sh", "probe.py", "unpack.py")}
    assert [len(list((root / ".gpu" / half / "test").iterdir())) for half in ("a", "b")] == [50, 50]
    without = started(environment | {"SKIP_WHEELS": "1"}, str(tmp_path / "prepare.sh"))
    assert without.stdout.startswith("left out: the real training")


def make_sheets(root: Path, first: np.ndarray) -> None:
    """Black images, a row for each class, in halves; those of class 60 in the test set are `first` [10, 32, 32, 3]."""
    for split, columns in unpack.COLUMNS.items():
        for number in range(unpack.CLASSES):
            half = root / ("a" if number < 50 else "b") / split
            half.mkdir(parents=True, exist_ok=True)
            sheet = np.zeros((32, 32 * columns, 3), np.uint8)
            if number == 60 and split == "test":
                sheet = first.transpose(1, 0, 2, 3).reshape(32, 320, 3)
            Image.fromarray(sheet).save(half / f"class{number:02d}.webp", lossless=True)


def test_sheets_become_the_archive(tmp_path: Path) -> None:
    first = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    make_sheets(tmp_path, first)
    assert unpack.unpack(tmp_path / "out", [tmp_path / "a", tmp_path / "b"]) == {"train": 2500, "test": 1000}
    record = pickle.loads((tmp_path / "out" / "cifar-100-python" / "test").read_bytes())
    assert record["fine_labels"][600:610] == [60] * 10
    assert np.array_equal(record["data"][600:610].reshape(10, 3, 32, 32), first.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match="50 of train and 50 of test"):
        unpack.unpack(tmp_path / "out", [tmp_path / "a"])


@pytest.mark.slow
def test_train_trains_and_says_what_it_reached(environment: dict[str, str], tmp_path: Path) -> None:
    make_sheets(tmp_path, np.zeros((10, 32, 32, 3), np.uint8))
    small = {"TEACHER": "resnet8", "STUDENT": "resnet8", "COMPILE": "off", "AMP": "off", **PATIENT}
    short = {"TEACHER_EPOCHS": "1", "EPOCHS": "1", "VIEWS": "1", "LIVE_STEPS": "3"}
    own = {"PYTHON": sys.executable, "SHEETS": f"{tmp_path}/a {tmp_path}/b"}
    done = started(environment | small | short | own, "tools/gpu/train.sh", seconds=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "out" / "lines-train").read_text().splitlines()
    epochs = {line.split(" ")[0]: line for line in lines if "| last epoch |" in line}
    assert set(epochs) == {"teacher", "cached", "live"} and all("test_top1" in line for line in epochs.values())


@pytest.mark.slow
def test_prove_proves_a_cpu(environment: dict[str, str], tmp_path: Path) -> None:
    done = started(environment | {"PYTHON": sys.executable} | PATIENT, "tools/gpu/prove.sh", seconds=1800)
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    assert {line.split(" ")[0] for line in (tmp_path / "out" / "lines-prove").read_text().splitlines()} >= set(STAGES)
