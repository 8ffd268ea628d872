"""Seeds side by side: the files of seeds trained one by one; signals, failures and deaths of children and parent."""

import fcntl
import json
import os
import signal
import time
from pathlib import Path

import mini_cifar
import pytest
import ranks
from test_resume import assert_same_run, wait_for_step, words

SEEDS = (4, 5, 6)
TIMES = {"images_per_second", "wall_seconds"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"), train=100, test=20)


def line(data: Path, folder: Path, *more: str) -> list[str]:
    """Three seeds, 14 steps each, of the smallest networks."""
    own = ("teacher.model=resnet8", "data.batch_size=16", "optim.epochs=2", "optim.milestones=[1]", "seed=4", "seeds=3")
    return words(data, folder, "x", *own, *more)


def run_of(folder: Path, seed: int) -> Path:
    return folder / "x" / f"seed{seed}"


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, closing line) of the seeds trained one after another."""
    folder = tmp_path_factory.mktemp("alone")
    codes, text = ranks.run_train(line(data, folder), 1, folder / "log")
    assert codes == [0], text
    return folder, text.splitlines()[-1]


def assert_same_seeds(alone: Path, folder: Path, *, resumed: int = 0) -> None:
    """Everything but times, the folder's name and how often a run was taken up again."""
    for seed in SEEDS:
        one, other = run_of(alone, seed), run_of(folder, seed)
        assert_same_run(one, other)
        assert (one / "config.yaml").read_text() == (other / "config.yaml").read_text().replace(str(folder), str(alone))
        a, b = (json.loads((run / "summary.json").read_text()) for run in (one, other))
        assert b.pop("resumed") <= resumed and a.pop("resumed") == 0
        assert {k: v for k, v in a.items() if k not in TIMES} == {k: v for k, v in b.items() if k not in TIMES}
    summaries = [json.loads((run_of(folder, seed) / "summary.json").read_text()) for seed in SEEDS]
    assert json.loads((folder / "x" / "seeds.json").read_text()) == summaries


def children_of(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def begin(words: list[str], log: Path, folder: Path, seed: int) -> ranks.ForkServerProcess:
    """A parent that trains, once `seed` has written a checkpoint."""
    [process] = ranks.start(ranks.train, (words,), 1, log)
    wait_for_step(run_of(folder, seed))
    return process


def go_on(words: list[str], folder: Path) -> str:
    codes, text = ranks.run_train(words, 1, folder / "again")
    assert codes == [0], text
    return text


def test_files_are_those_of_seeds_trained_one_by_one(data: Path, alone: tuple[Path, str], tmp_path: Path) -> None:
    codes, text = ranks.run_train(line(data, tmp_path, "runtime.parallel_seeds=auto"), 1, tmp_path / "log")
    assert codes == [0], text
    assert_same_seeds(alone[0], tmp_path)
    first, *lines, last = text.splitlines()
    assert first.startswith("3 seeds, at most") and last == alone[1]
    assert all(text.startswith(tuple(f"seed {seed} | " for seed in SEEDS)) for text in lines)
    assert all(sum(f"seed {seed} | done: top1" in text for text in lines) == 1 for seed in SEEDS)


def test_signals_stop_all_and_they_go_on(data: Path, alone: tuple[Path, str], tmp_path: Path) -> None:
    """Three interruptions of one call, each by another signal; the first seed goes ahead and may be done by then."""
    words = line(data, tmp_path, "runtime.parallel_seeds=2")
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    for number in signals:
        process = begin(words, tmp_path / number.name, tmp_path, 5)
        os.kill(process.pid or 0, number)
        codes, text = ranks.finish([process]), (tmp_path / f"{number.name}.0").read_text()
        assert codes == [75] and "Traceback" not in text, text
        left = [str(seed) for seed in SEEDS if not (run_of(tmp_path, seed) / "summary.json").exists()]
        assert text.splitlines()[-1] == f"Interrupted: {number.name}: seeds {', '.join(left)} go on when started again"
        assert f"seed 5 | Interrupted: {number.name}: stopped after step" in text
        assert not (tmp_path / "x" / "seeds.json").exists()
    assert "seed 5 | resumed at step" in go_on(words, tmp_path)
    assert_same_seeds(alone[0], tmp_path, resumed=len(signals))


def test_a_killed_child_is_named_and_the_others_end(data: Path, alone: tuple[Path, str], tmp_path: Path) -> None:
    words = line(data, tmp_path, "runtime.parallel_seeds=2")
    process = begin(words, tmp_path / "log", tmp_path, 4)
    os.kill(children_of(process.pid or 0)[0], signal.SIGKILL)
    codes, text = ranks.finish([process]), (tmp_path / "log.0").read_text()
    assert codes == [128 + signal.SIGKILL], text
    assert "was killed by SIGKILL" in text and "of 3 seeds" in text.splitlines()[-1]
    assert sum((run_of(tmp_path, seed) / "summary.json").exists() for seed in SEEDS) == 2
    go_on(words, tmp_path)
    assert_same_seeds(alone[0], tmp_path, resumed=1)


def test_children_stop_in_order_when_their_parent_is_killed(
    data: Path, alone: tuple[Path, str], tmp_path: Path
) -> None:
    words = line(data, tmp_path, "runtime.parallel_seeds=2")
    process = begin(words, tmp_path / "log", tmp_path, 5)
    orphans = children_of(process.pid or 0)
    assert orphans
    process.kill()
    ranks.finish([process])
    for seed in (4, 5):
        with (run_of(tmp_path, seed) / ".lock").open("w") as handle:
            wait_for_lock(handle.fileno())
    assert not (tmp_path / "x" / "seeds.json").exists()
    go_on(words, tmp_path)
    assert_same_seeds(alone[0], tmp_path, resumed=1)


def wait_for_lock(handle: int, seconds: float = 30) -> None:
    """Until no process trains in the folder any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.01)
    raise AssertionError("a child has outlived its parent")


def test_one_that_fails_does_not_hinder_the_others(data: Path, tmp_path: Path) -> None:
    run_of(tmp_path, 5).mkdir(parents=True)
    (run_of(tmp_path, 5) / "config.yaml").write_text("dataset: cifar10\n")
    codes, text = ranks.run_train(line(data, tmp_path, "runtime.parallel_seeds=2"), 1, tmp_path / "log")
    assert codes == [2] and "Traceback" not in text, text
    assert text.count("error: ") == 1 and "holds another run (dataset cifar10 there" in text
    assert "seed 5 ended with exit code 2" in text and text.splitlines()[-1] == "failed: seed 5 of 3 seeds"
    assert [(run_of(tmp_path, seed) / "summary.json").exists() for seed in SEEDS] == [True, False, True]
    assert not (tmp_path / "x" / "seeds.json").exists()


@pytest.mark.parametrize(
    ("count", "more", "expected"),
    [
        (1, ["data.root=/nowhere"], "error: no cifar100 in /nowhere"),
        (1, ["teacher.checkpoint=/nowhere.pt"], "seed 4 | error: /nowhere.pt"),
        (2, [], "error: runtime.parallel_seeds trains each seed on one rank"),
        (1, ["runtime.parallel_seeds=many"], 'error: runtime.parallel_seeds="many": input should be a valid integer'),
    ],
)
def test_what_is_wrong_with_all_is_said_once(
    count: int, more: list[str], expected: str, data: Path, tmp_path: Path
) -> None:
    codes, text = ranks.run_train(line(data, tmp_path, "runtime.parallel_seeds=3", *more), count, tmp_path / "log")
    assert codes == [2] * count, text
    assert text.count("error: ") == 1 and expected in text and "Traceback" not in text
    assert not any((run_of(tmp_path, seed) / "checkpoints").exists() for seed in SEEDS)
