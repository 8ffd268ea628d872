"""Checkpoint files are whole, or they are found out."""

import os
import random
import resource
from pathlib import Path

import pytest
import torch

from pipeline.run_folder.checkpoint_file import Checkpoints, DamagedCheckpoint, seal, unseal

STATE = {"model": {"w": torch.arange(2000, dtype=torch.float32)}, "position": {"done": 7}, "list": [1, "a", None]}


@pytest.fixture
def folder(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def numbered(step: int) -> dict[str, object]:
    return STATE | {"position": {"done": step}}


def test_round_trip_and_plain_torch_load(folder: Checkpoints) -> None:
    folder.save_last(STATE)
    state = unseal(folder.last)
    assert torch.equal(state["model"]["w"], STATE["model"]["w"]) and state["position"] == {"done": 7}
    assert torch.load(folder.last, weights_only=True)["list"] == [1, "a", None]


def test_every_flipped_bit_and_every_truncation_is_detected(folder: Checkpoints) -> None:
    folder.save_last(STATE)
    good = folder.last.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        bad = bytearray(good)
        bad[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        folder.last.write_bytes(bad)
        with pytest.raises(DamagedCheckpoint):
            unseal(folder.last)
    for size in [0, 1, 71, 72, len(good) // 2, len(good) - 1]:
        folder.last.write_bytes(good[:size])
        with pytest.raises(DamagedCheckpoint):
            unseal(folder.last)


def test_previous_good_one_is_used_and_named(folder: Checkpoints) -> None:
    for step in (1, 2, 3):
        folder.save_last(numbered(step))
    state, complaints = folder.load_last()
    assert state is not None and state["position"] == {"done": 3} and complaints == []
    folder.last.write_bytes(folder.last.read_bytes()[:-5])
    state, complaints = folder.load_last()
    assert state is not None and state["position"] == {"done": 2}
    assert "last.pt is damaged" in complaints[0]
    folder.previous.write_bytes(b"")
    state, complaints = folder.load_last()
    assert state is None and len(complaints) == 2


def test_full_disk_leaves_what_was_there(folder: Checkpoints) -> None:
    folder.save_last(numbered(1))
    folder.save_last(numbered(2))
    before = {p.name: p.read_bytes() for p in folder.folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # every write beyond 4000 bytes fails, as on a full disk
    try:
        with pytest.raises(OSError):
            folder.save_last(numbered(3))
        with pytest.raises(OSError):
            folder.save(folder.best, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in folder.folder.iterdir()} == before
    folder.save_last(numbered(3))
    assert unseal(folder.last)["position"] == {"done": 3}
    assert unseal(folder.previous)["position"] == {"done": 2}


def test_leftovers_of_killed_writers_are_swept(folder: Checkpoints) -> None:
    (folder.folder / ".pending.pt.123.tmp").write_bytes(b"half")
    folder.save_last(STATE)
    assert sorted(p.name for p in folder.folder.iterdir()) == ["last.pt"]


def test_kept_epochs_survive_later_steps(folder: Checkpoints) -> None:
    folder.save_last(numbered(1))
    folder.keep(4)
    folder.save_last(numbered(2))
    assert unseal(folder.folder / "epoch-0004.pt")["position"] == {"done": 1}


def test_file_systems_without_hard_links(folder: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2):
        folder.save_last(numbered(step))
    assert unseal(folder.previous)["position"] == {"done": 1}


def test_seal_is_deterministic() -> None:
    assert seal(STATE) == seal(STATE)
