"""summary.json says what the steps ran as: `graph`, `tf32`."""

import json
from pathlib import Path

import pytest
import torch
from short_runs import Capture, after_step, finish, forge, make_data, refused, stop, unseal

from pipeline.engine.distributed import parallel, tf32
from pipeline.engine.what_ran import FALLBACK

GRAPH = "runtime.compile=graph"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced is replayed as it is: compiling takes a minute."""
    monkeypatch.setattr(parallel, "compile_graph", lambda graph: graph)


def told(root: Path, name: str, key: str = "graph") -> str:
    found: str = json.loads((root / name / "summary.json").read_text())[key]
    return found


def test_plain_steps(root: Path, capsys: Capture) -> None:
    finish(root, "plain", capsys, "run.limit_steps=1")
    assert told(root, "plain") == "off"


def test_resumed_runs(root: Path, capsys: Capture, uncompiled: None) -> None:
    stop(root, "resumed", after_step(1), "run.checkpoint_steps=1")
    finish(root, "resumed", capsys, GRAPH)
    assert told(root, "resumed") == "off, then compiled"
    (root / "resumed" / "summary.json").unlink()
    finish(root, "resumed", capsys)  # no step is left to take
    assert told(root, "resumed") == "off, then compiled"


def test_a_run_that_goes_on_without_tf32(root: Path, capsys: Capture) -> None:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tf32, "settle", lambda runtime, device: tf32.CONVOLUTIONS)
        after_step(1)(monkeypatch)

    stop(root, "rounded", patch, "run.checkpoint_steps=1")
    finish(root, "rounded", capsys)
    assert told(root, "rounded", "tf32") == "convolutions, then off"
    (root / "rounded" / "summary.json").unlink()
    finish(root, "rounded", capsys)  # no step is left to take
    assert told(root, "rounded", "tf32") == "convolutions, then off"


def test_a_method_that_cannot_be_recorded(root: Path, capsys: Capture) -> None:
    words = ("method=heda", "teacher.model=resnet8", "teacher.checkpoint=none", GRAPH, "run.limit_steps=1")
    out = finish(root, "heda", capsys, *words)
    reason = "method heda reads values on the host"
    assert told(root, "heda") == f"{FALLBACK}: {reason}"
    assert f"runtime.compile=graph: {reason}; steps run plainly\n" in out


def test_too_few_whole_batches(root: Path, capsys: Capture, uncompiled: None) -> None:
    out = finish(root, "short", capsys, GRAPH, "data.batch_size=32", "run.limit_steps=1")
    assert told(root, "short") == f"{FALLBACK}: no batch of one shape came often enough to be recorded"
    assert f"{GRAPH}: no batch of one shape came often enough to be recorded; steps ran plainly\n" in out


@pytest.mark.parametrize("key", ["graph", "tf32"])
def test_a_forged_entry_is_refused(root: Path, capsys: Capture, key: str) -> None:
    folder = stop(root, f"forged_{key}", after_step(1), "run.checkpoint_steps=1")
    assert unseal(folder / "checkpoints" / "last.pt")[key] == "off"
    forge(folder / "checkpoints" / "last.pt", lambda state: state.update({key: torch.zeros(2)}))
    assert f"does not fit this run ({key})" in refused(root, f"forged_{key}", capsys)
