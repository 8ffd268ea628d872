"""Every method: two ranks compute what one computes, losses, gradients and banks."""

from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from methods import rank_job
from methods.lab import METHODS

BOUND = {"r2kd": 1e-7}  # its ranks are float32, as in the official code
Seen = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Seen]]:
    """What each rank wrote, by number of ranks."""
    found: dict[int, Any] = {}
    folder = tmp_path_factory.mktemp("ranks")
    for count in (1, 2):
        out, log = folder / f"seen{count}", folder / f"log{count}"
        codes = ranks.finish(ranks.start(rank_job.all_methods, (str(out),), count, log), seconds=400)
        assert codes == [0] * count, Path(f"{log}.0").read_text()
        found[count] = [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(count)]
    return found


@pytest.mark.parametrize("method", [name for name in METHODS if name != "vanilla"])
def test_two_ranks_are_one(method: str, seen: dict[int, list[Seen]]) -> None:
    alone = seen[1][0][method]
    for rank in seen[2]:
        for key, wanted in alone.items():
            got = rank[method][key]
            scale = float(wanted.abs().max()) + 1e-300
            assert got.shape == wanted.shape, key
            assert float((got - wanted).abs().max()) <= BOUND.get(method, 1e-9) * scale, key
