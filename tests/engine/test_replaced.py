"""replaced.jsonl: each image once, in a fixed order, over ranks and resumed runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.engine.distributed.parallel import World
from pipeline.engine.reporting.bad_images import NAME, ReplacedImages
from pipeline.engine.reporting.reporter import Reporter


class Finder:
    """As much of a loader as is asked here."""

    def __init__(self, split: str, *found: int) -> None:
        self.split = split
        self.replaced: dict[int, dict[str, Any]] = {}
        self.find(*found)

    def find(self, *found: int) -> None:
        for index in found:
            self.replaced[index] = {"split": self.split, "index": index, "file": f"{index}.jpg"}


class TwoRanks(World):
    """The leader, and what the other rank says."""

    others: tuple[dict[str, Any], ...] = ()

    def gather(self, item: Any) -> list[Any]:
        return [item, list(self.others)]


@pytest.mark.parametrize("content", [b"3\n", b"\xff\n", b"{}\n", b"[" * 9999 + b"\n", b'{"split": "train"}\n'])
def test_a_damaged_list_is_kept_beside(content: bytes, tmp_path: Path) -> None:
    row = b'{"split": "train", "index": 3, "file": "3.jpg"}\n'
    (tmp_path / NAME).write_bytes(row + content + row[:-9])
    alone = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)
    listed = ReplacedImages([Finder("train", 3, 5)], alone, tmp_path, Reporter(leader=True))  # type: ignore[list-item]
    assert len(listed) == 1 and (tmp_path / f"{NAME}.old-1").read_bytes() == row + content + row[:-9]
    listed.settle(now)
    assert [json.loads(line)["index"] for line in (tmp_path / NAME).read_text().splitlines()] == [3, 5]


def now(write: Callable[[], object]) -> None:
    write()


def listed(folder: Path) -> list[tuple[str, int]]:
    return [(row["split"], row["index"]) for row in map(json.loads, (folder / NAME).read_text().splitlines())]


def alone() -> World:
    return World(rank=0, ranks=1, device=torch.device("cpu"), side=None)


def test_each_image_is_listed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = Finder("train", 7, 3), Finder("test", 5)
    images = ReplacedImages((train, test), alone(), tmp_path, Reporter(leader=True))  # type: ignore[arg-type]
    for _ in range(2):
        images.settle(now)
        assert listed(tmp_path) == [("test", 5), ("train", 3), ("train", 7)] and len(images) == 3
    assert capsys.readouterr().out.count("3 images cannot be read and are replaced, 3 in all") == 1
    train.find(1)
    images.settle(now)
    assert listed(tmp_path)[3:] == [("train", 1)]
    again = ReplacedImages((Finder("train", 9, 1),), alone(), tmp_path, Reporter(leader=True))  # type: ignore[arg-type]
    assert len(again) == 4
    again.settle(now)
    assert listed(tmp_path)[3:] == [("train", 1), ("train", 9)] and len(again) == 5


def test_ranks_are_joined(tmp_path: Path) -> None:
    world = TwoRanks(rank=0, ranks=2, device=torch.device("cpu"), side=None)
    object.__setattr__(world, "others", tuple(Finder("train", 4, 7).replaced.values()))
    images = ReplacedImages((Finder("train", 7, 8),), world, tmp_path, Reporter(leader=True))  # type: ignore[arg-type]
    images.settle(now)
    assert listed(tmp_path) == [("train", 4), ("train", 7), ("train", 8)]


def test_nothing_found_leaves_no_file(tmp_path: Path) -> None:
    images = ReplacedImages((Finder("train"),), alone(), tmp_path, Reporter(leader=True))  # type: ignore[arg-type]
    images.settle(now)
    assert len(images) == 0 and not list(tmp_path.iterdir())
