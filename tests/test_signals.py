"""SIGTERM, SIGINT and SIGUSR2 end the step, write a checkpoint and exit with 75; the run goes on from there."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import mini_cifar
import pytest
import ranks
from test_resume import assert_same_run, wait_for_step, words

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Undisturbed runs on one and two ranks."""
    folder = tmp_path_factory.mktemp("unbroken")
    for count in (1, 2):
        codes, text = ranks.run_train(words(data, folder, f"{count}", "optim.epochs=4"), count, folder / f"log{count}")
        assert codes == [0] * count, text
    return {count: folder / f"{count}" for count in (1, 2)}


@pytest.mark.parametrize(
    ("number", "count", "everybody"),
    [(signal.SIGTERM, 1, True), (signal.SIGINT, 2, True), (signal.SIGUSR2, 2, False)],
)
def test_stops_in_order_and_goes_on(
    number: signal.Signals, count: int, everybody: bool, data: Path, unbroken: dict[int, Path], tmp_path: Path
) -> None:
    line = words(data, tmp_path, "x", "optim.epochs=4", "run.checkpoint_steps=2")
    processes = ranks.start(ranks.train, (line,), count, tmp_path / "log")
    wait_for_step(tmp_path / "x")
    for process in processes if everybody else processes[1:]:  # a signal on one rank stops all
        os.kill(process.pid or 0, number)
    codes = ranks.finish(processes)
    text = (tmp_path / "log.0").read_text()
    assert codes == [75] * count, text
    assert f"{number.name}: stopped after step" in text and "Traceback" not in text
    assert not (tmp_path / "x" / "summary.json").exists()
    codes, text = ranks.run_train(line, count, tmp_path / "again")
    assert codes == [0] * count and "resumed at step" in text
    assert_same_run(unbroken[count], tmp_path / "x")


def test_other_ranks_take_over_with_the_same_batches(data: Path, tmp_path: Path) -> None:
    """Two ranks cut inside an epoch, one rank goes on: same samples, BN statistics averaged."""
    codes, text = ranks.run_train(words(data, tmp_path, "x", "run.limit_steps=10"), 2, tmp_path / "two")
    assert codes == [0, 0], text
    codes, text = ranks.run_train(words(data, tmp_path, "x"), 1, tmp_path / "one")
    assert codes == [0], text
    made = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert "resumed at step 10 of 21" in text and made["resumed"] == 1 and made["steps"] == 21


def limited(argv: list[str]) -> None:
    """A training that cannot write files of more than 100 kB, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    ranks.train(argv)


@pytest.mark.parametrize("count", [1, 2])
def test_full_disk_leaves_the_last_good_checkpoint(count: int, data: Path, tmp_path: Path) -> None:
    codes, text = ranks.run_train(words(data, tmp_path, "x", "run.limit_steps=3"), count, tmp_path / "first")
    assert codes == [0] * count, text
    file = tmp_path / "x" / "checkpoints" / "last.pt"
    before = file.read_bytes()
    codes = ranks.finish(ranks.start(limited, (words(data, tmp_path, "x"),), count, tmp_path / "full"))
    text = (tmp_path / "full.0").read_text()
    assert codes == [1] * count, text
    assert "cannot write to" in text and "the last good checkpoint stands" in text and "Traceback" not in text
    assert file.read_bytes() == before


def test_a_second_process_is_refused(data: Path, tmp_path: Path) -> None:
    line = words(data, tmp_path, "x", "optim.epochs=50")
    first = ranks.start(ranks.train, (line,), 1, tmp_path / "first")
    wait_for_step(tmp_path / "x")
    codes, text = ranks.run_train(line, 1, tmp_path / "second")
    assert codes == [2] and "another process is training in" in text
    for process in first:
        process.kill()
    ranks.finish(first)


def test_torchrun_and_plain_python(data: Path, tmp_path: Path) -> None:
    """The real command lines, from another folder: two ranks under torchrun with the torch loader, then evaluation."""
    line = [*words(data, tmp_path, "x", "run.limit_steps=8", "data.loader=torch"), "data.workers=1"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def call(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(ranks.free_port()),
    ]
    text = call(*torchrun, str(ROOT / "pipeline" / "train.py"), *line)
    assert "over 2 rank(s) = 16 each" in text and "batch-norm statistics are per rank" in text
    start = time.perf_counter()
    words_ = [
        "dataset=cifar100",
        f"data.root={data}",
        "model=resnet8",
        f"checkpoint={tmp_path / 'x'}",
        "runtime.device=cpu",
    ]
    printed = call(sys.executable, str(ROOT / "pipeline" / "evaluate.py"), *words_)
    assert time.perf_counter() - start < 120
    found = json.loads(printed.splitlines()[-1])
    assert (
        found["samples"] == 60 and found["top1"] == json.loads((tmp_path / "x/summary.json").read_text())["top1_last"]
    )
