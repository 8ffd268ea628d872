"""Signals in every phase: what is kept, what is said, the exit code, and an end where something hangs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jpeg_files
import mini_cifar
import pytest
import ranks
import stopping
from test_resume import assert_same_run, words

from pipeline.run_folder.checkpoint_file import unseal

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


def line(data: Path, folder: Path, name: str) -> list[str]:
    """Two epochs of seven steps; the evaluation has four batches."""
    return words(data, folder, name, "optim.epochs=2", "run.checkpoint_steps=0", "data.eval_batch_size=16")


@pytest.mark.parametrize(
    ("count", "number"), [(1, signal.SIGTERM), pytest.param(2, signal.SIGUSR2, marks=pytest.mark.slow)]
)
def test_an_evaluation_is_left_and_made_when_the_run_goes_on(
    count: int, number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    codes, text = ranks.run_train(line(data, tmp_path, "whole"), count, tmp_path / "log")
    assert codes == [0] * count, text
    broken = line(data, tmp_path, "broken")
    processes = ranks.start(stopping.in_evaluation, (broken, number, count - 1), count, tmp_path / "stopped")
    codes, text = ranks.finish(processes), (tmp_path / "stopped.0").read_text()
    assert codes == [75] * count, text
    assert f"{number.name}: stopped after step 14, checkpoint written; its epoch is evaluated when" in text
    position = unseal(tmp_path / "broken" / "checkpoints" / "last.pt")["position"]
    assert (position["done"], position["closed"]) == (14, 1)
    codes, text = ranks.run_train(broken, count, tmp_path / "again")
    assert codes == [0] * count, text
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("tool", "goes_on"), [("pipeline.train", True), ("pipeline.evaluate", False), ("data_prep.write_beton", False)]
)
def test_before_there_is_anything_to_save_one_line_is_said(
    tool: str, goes_on: bool, number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    own = {
        "pipeline.train": line(data, tmp_path, "x"),
        "pipeline.evaluate": ["dataset=cifar100", f"data.root={data}", "model=resnet8", "checkpoint=none"],
        "data_prep.write_beton": ["dataset=cifar100", f"data.root={data}", f"out={tmp_path / 'x.beton'}"],
    }[tool]
    processes = ranks.start(stopping.while_building, (tool, own, number), 1, tmp_path / "log")
    codes, text = ranks.finish(processes), (tmp_path / "log.0").read_text()
    assert codes == [75 if goes_on else 128 + number], text
    assert text.splitlines()[-1].startswith(f"{number.name}: stopped, nothing") and "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "owner", "name"),
    [("energykd", "pipeline.engine.trainer", "teach"), ("ft", "pipeline.engine.first_stage", "stage_config")],
)
def test_teacher_pass_and_first_stage_are_left_at_once(
    method: str, owner: str, name: str, data: Path, tmp_path: Path
) -> None:
    own = [*line(data, tmp_path, "x"), f"method={method}"]
    processes = ranks.start(stopping.in_first_stage_or_pass, (own, owner, name), 1, tmp_path / "log")
    codes, text = ranks.finish(processes), (tmp_path / "log.0").read_text()
    assert codes == [75] and "SIGTERM: stopped, nothing" in text and "Traceback" not in text, text


def test_what_hangs_is_ended_with_the_place(tmp_path: Path) -> None:
    [process] = ranks.start(stopping.holds, (0.3,), 1, tmp_path / "log")
    stopping.wait_for(tmp_path / "log.0", "ready")
    os.kill(process.pid or 0, signal.SIGTERM)
    assert ranks.finish([process], 20) == [75]
    text = (tmp_path / "log.0").read_text()
    assert "SIGTERM: no step ended within 0 s in tests/stopping.py:" in text and "the last one stands" in text


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    [process] = ranks.start(stopping.holds, (60.0,), 1, tmp_path / "log")
    stopping.wait_for(tmp_path / "log.0", "ready")
    os.kill(process.pid or 0, signal.SIGINT)
    stopping.wait_for(tmp_path / "log.0", "heard")  # two within signals.TOGETHER are one
    time.sleep(0.5)
    os.kill(process.pid or 0, signal.SIGTERM)
    assert ranks.finish([process], 20) == [128 + signal.SIGTERM]
    assert "SIGTERM again: ended at once" in (tmp_path / "log.0").read_text()


def folder_words(tmp_path: Path, *more: str) -> list[str]:
    for split in ("train", "val"):
        for name in "ab":
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(12):
                (folder / f"{number}.jpg").write_bytes(jpeg_files.jpeg(number, 32, 32))
    return [
        "dataset=folder", f"data.root={tmp_path / 'images'}", "model=resnet8", "data.image_size=32",
        "data.batch_size=4", "runtime.device=cpu", f"run.dir={tmp_path}", "run.name=x", "log.tensorboard=false",
        "data.loader=torch", "data.workers=1", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_read_that_hangs_is_named_and_a_signal_saves_what_was_done(tmp_path: Path) -> None:
    own = folder_words(tmp_path)
    [process] = ranks.start(stopping.reads_for_ever, (own, 14, 1.0), 1, tmp_path / "log")
    stopping.wait_for(tmp_path / "log.0", "has taken")
    os.kill(process.pid or 0, signal.SIGTERM)
    assert ranks.finish([process], 20) == [75]
    text = (tmp_path / "log.0").read_text()
    assert "warning: data worker 0 reading" in text and ".jpg has taken" in text
    assert "stopped after step 3, checkpoint written" in text and "Traceback" not in text


@pytest.mark.slow
def test_a_read_that_does_not_end_ends_the_run(tmp_path: Path) -> None:
    own = folder_words(tmp_path, "data.read_timeout=2")
    [process] = ranks.start(stopping.reads_for_ever, (own, 14, 1.0), 1, tmp_path / "log")
    assert ranks.finish([process], 60) == [1]
    text = (tmp_path / "log.0").read_text()
    assert "error: data worker 0 reading" in text and ".jpg did not end within 2 s" in text
    assert "ended unexpectedly" in text and "Traceback" not in text


def script(log: Path, *own: str) -> subprocess.Popen[bytes]:
    """The training's own command line, printing into `log`."""
    command = [sys.executable, "-u", str(ROOT / "pipeline" / "train.py"), *own]
    with log.open("wb") as handle:
        return subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT)


def children_of(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether the process runs or stands still; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGSTOP, 75), (signal.SIGKILL, 1)])
def test_workers_that_are_stopped_or_killed(number: signal.Signals, code: int, data: Path, tmp_path: Path) -> None:
    own = [*words(data, tmp_path, "x", "optim.epochs=500"), "data.loader=torch", "data.workers=1"]
    process = script(tmp_path / "log", *own)
    stopping.wait_for(tmp_path / "log", "epoch 2/")
    workers = children_of(process.pid)
    for worker in workers:
        os.kill(worker, number)
    if code == 75:
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == code
    text = (tmp_path / "log").read_text()
    assert ("checkpoint written" if code == 75 else "was killed: Killed") in text and "Traceback" not in text, text
    assert not any(map(alive, workers))


@pytest.mark.slow
def test_a_rank_that_stands_still_holds_nobody(data: Path, tmp_path: Path) -> None:
    own = words(data, tmp_path, "x", "optim.epochs=500")
    processes = ranks.start(ranks.train, (own,), 2, tmp_path / "log")
    stopping.wait_for(tmp_path / "log.0", "epoch 2/")
    os.kill(processes[1].pid or 0, signal.SIGSTOP)
    time.sleep(1)
    os.kill(processes[0].pid or 0, signal.SIGTERM)
    processes[0].join(40)
    assert processes[0].exitcode == 75
    assert "rank 0: SIGTERM: no step ended within 10 s in pipeline/" in (tmp_path / "log.0").read_text()
    processes[1].kill()
    ranks.finish(processes)
