"""A run that is killed again and again ends with the weights of the unbroken one, bit for bit."""

import json
import random
import time
from pathlib import Path

import mini_cifar
import pytest
import ranks
import torch

from pipeline.run_folder.checkpoint_file import unseal

KILLS = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose last batch is short: 200 = 6 * 32 + 8."""
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


def words(data: Path, runs: Path, name: str, *more: str) -> list[str]:
    """kd with momentum, short batches, crops, a checkpoint at every step, several DDP buckets."""
    return [
        "dataset=cifar100", f"data.root={data}", "pair=resnet20-resnet8", "method=kd", "teacher.checkpoint=none",
        "data.batch_size=32", "optim.epochs=3", "optim.milestones=[1,2]", f"run.dir={runs}", f"run.name={name}",
        "run.log_every=5", "run.checkpoint_steps=1", "runtime.bucket_mb=0.05", "runtime.device=cpu",
        "log.tensorboard=false", *more,
    ]  # fmt: skip


def final_state(run: Path) -> dict[str, torch.Tensor]:
    """All tensors that a run ends with, by dotted name."""

    def flat(item: object, name: str) -> dict[str, torch.Tensor]:
        if isinstance(item, torch.Tensor):
            return {name: item}
        entries = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        return {k: v for key, value in entries for k, v in flat(value, f"{name}.{key}").items()}

    return flat(unseal(run / "checkpoints" / "last.pt"), "")


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, BN statistics of every rank, momentum, random state and epoch sums, and the records."""
    a, b = final_state(one), final_state(other)
    assert a.keys() == b.keys() and len(a) > 100
    unequal = [name for name in a if not torch.equal(a[name], b[name])]
    assert unequal == []
    assert (one / "student.safetensors").read_bytes() == (other / "student.safetensors").read_bytes()
    timing = {"images_per_second", "data_wait", "seconds"}
    for left, right in zip(records(one), records(other), strict=True):
        assert {k: v for k, v in left.items() if k not in timing} == {k: v for k, v in right.items() if k not in timing}


def records(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(run: Path, seconds: float = 60) -> None:
    """Until the process has written a checkpoint of its own."""
    last = run / "checkpoints" / "last.pt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if last.exists() and last.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)
    raise AssertionError("no checkpoint was written")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_killed_at_random_moments(count: int, data: Path, tmp_path: Path) -> None:
    line, whole = (words(data, tmp_path, name, "optim.epochs=5") for name in ("broken", "unbroken"))
    codes, text = ranks.run_train(whole, count, tmp_path / "unbroken.log")
    assert codes == [0] * count, text
    made = json.loads((tmp_path / "unbroken" / "summary.json").read_text())
    step_seconds = made["wall_seconds"] / made["steps"]  # ten kills, each within a step or two: 35 steps are enough
    rng = random.Random(count)
    broken = tmp_path / "broken"
    kills = 0
    while kills < KILLS and not (broken / "summary.json").exists():
        processes = ranks.start(ranks.train, (line,), count, tmp_path / f"kill{kills}.log")
        wait_for_step(broken)
        time.sleep(rng.uniform(0, step_seconds))
        for process in processes:
            process.kill()
        ranks.finish(processes)
        kills += 1
    codes, text = ranks.run_train(line, count, tmp_path / "last.log")
    assert codes == [0] * count, text
    assert kills == KILLS
    assert json.loads((broken / "summary.json").read_text())["resumed"] == KILLS
    assert_same_run(tmp_path / "unbroken", broken)
