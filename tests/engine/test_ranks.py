"""Ranks change nothing: one rank = two = three, but for rounding."""

from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from engine import rank_jobs
from torch import Tensor

COUNTS = (1, 2, 3)


def run(function: Any, count: int, folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """What each rank wrote."""
    out = folder / f"seen{count}"
    codes = ranks.finish(ranks.start(function, (str(out), *arguments), count, folder / f"log{count}"))
    assert codes == [0] * count, Path(f"{folder}/log{count}.0").read_text()
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(count)]


def joined(seen: list[dict[str, Any]], number: int, key: str) -> Tensor:
    """One global batch: the rows of all ranks in order."""
    return torch.cat([rank["steps"][number][key] for rank in seen])


@pytest.mark.parametrize(
    ("sync_bn", "train_mode", "accumulate"),
    [(False, False, 1), (True, True, 1), (False, False, 2)],
    ids=["bn in eval", "synchronised bn", "two slices"],
)
def test_same_batches_losses_and_gradients(sync_bn: bool, train_mode: bool, accumulate: int, tmp_path: Path) -> None:
    seen = {count: run(rank_jobs.steps, count, tmp_path, sync_bn, train_mode, accumulate) for count in COUNTS}
    number_of_steps = len(seen[1][0]["steps"])
    assert number_of_steps == 6
    for count in COUNTS[1:]:
        for k in range(number_of_steps):
            assert torch.equal(joined(seen[count], k, "index"), joined(seen[1], k, "index"))
            assert torch.equal(joined(seen[count], k, "image"), joined(seen[1], k, "image"))
            alone = seen[1][0]["steps"][k]
            for rank in seen[count]:
                step = rank["steps"][k]
                assert torch.allclose(step["loss"], alone["loss"], rtol=1e-12)
                scale = alone["gradient"].abs().max()
                assert (step["gradient"] - alone["gradient"]).abs().max() <= 1e-12 * scale
        if sync_bn:
            for name, value in seen[1][0]["buffers"].items():
                assert torch.allclose(seen[count][0]["buffers"][name], value, rtol=1e-10), name


def test_bn_statistics_are_per_rank_unless_synchronised(tmp_path: Path) -> None:
    one, two = run(rank_jobs.steps, 2, tmp_path, False, True, 1)
    assert any(not torch.equal(one["buffers"][name], two["buffers"][name]) for name in one["buffers"])


@pytest.mark.parametrize("count", COUNTS)
def test_evaluation_counts_each_sample_once_and_changes_nothing(count: int, tmp_path: Path) -> None:
    seen = run(rank_jobs.evaluated, count, tmp_path)
    assert [rank["score"] for rank in seen] == [seen[0]["score"]] * count
    assert seen[0]["score"]["samples"] == rank_jobs.ROWS
    assert all(rank["same"] for rank in seen)
    mean = torch.stack([rank["before"]["bn1.running_mean"] for rank in seen]).mean(0)
    for rank in seen:
        assert torch.allclose(rank["inside"]["bn1.running_mean"], mean, rtol=1e-6, atol=1e-8)
        assert count == 1 or not torch.equal(rank["before"]["bn1.running_mean"], mean)
