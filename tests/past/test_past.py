"""Run folders and a cache that an earlier version wrote go on as it went on with them, bit for bit."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mini_cifar
import pytest
import ranks
import torch
from safetensors.torch import load_file

from pipeline.run_folder.checkpoint_file import unseal

HERE = Path(__file__).resolve().parent
EXPECTED = json.loads((HERE / "expected.json").read_text())
RUNS: dict[str, Any] = EXPECTED["runs"]
ALONE = [name for name, run in RUNS.items() if run["ranks"] == 1]
# As on the machine that wrote them, whatever this one is: the oldest kernels that all have.
KERNELS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
SAME_TORCH = torch.__version__.split("+")[0] == EXPECTED["torch"]
ROUNDING = 0 if SAME_TORCH else 1e-2  # relative; another torch may add up in another order


def laid_out(folder: Path) -> Path:
    """`folder` with the runs, the cache and the data they were trained on."""
    for name in ("runs", "caches"):
        shutil.copytree(HERE / name, folder / name)
    mini_cifar.write(folder / "data")
    return folder


def go_on(folder: Path, calls: list[tuple[str, list[str]]], environment: dict[str, str]) -> subprocess.Popen[str]:
    """The calls in a process of their own, in `folder`."""
    todo = folder / f"calls{environment.get('RANK', '')}.json"
    todo.write_text(json.dumps(calls))
    return subprocess.Popen(
        [sys.executable, str(HERE / "go_on.py"), todo.name],
        cwd=folder,
        env={**os.environ, **KERNELS, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder in which every run of one rank has been started again with its words, what was printed)."""
    folder = laid_out(tmp_path_factory.mktemp("past"))
    calls = [("train", RUNS[name]["words"]) for name in ALONE]
    where = ["data.root=data", "runtime.device=cpu"]
    calls += [("evaluate", [f"checkpoint=runs/{name}", *where]) for name in EXPECTED["evaluate"]]
    process = go_on(folder, calls, {})
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return folder, told


def tensors_in(item: object, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by dotted name."""
    if isinstance(item, torch.Tensor):
        return {name[1:]: item}
    entries = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    return {k: v for key, value in entries for k, v in tensors_in(value, f"{name}.{key}").items()}


def sums_of(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Twelve digits of each tensor's SHA-256, its type and shape included."""

    def one(tensor: torch.Tensor) -> str:
        tensor = tensor.detach().cpu().contiguous()
        head = f"{tensor.dtype} {list(tensor.shape)} ".encode()
        return hashlib.sha256(head + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:12]

    return {name: one(tensor) for name, tensor in sorted(tensors.items())}


def assert_as_then(folder: Path, name: str) -> None:
    run, wanted = folder / "runs" / name, RUNS[name]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert_figures(
        [{k: record[k] for k in row} for record, row in zip(records, wanted["metrics"], strict=True)], wanted
    )
    student = sums_of(load_file(run / "student.safetensors"))
    found = sums_of(tensors_in(unseal(run / "checkpoints" / "last.pt")))
    assert student.keys() == wanted["student"].keys() and found.keys() >= wanted["checkpoint"].keys()
    if SAME_TORCH:
        assert student == wanted["student"]
        # Later versions may keep more than these.
        assert {key: found[key] for key in wanted["checkpoint"]} == wanted["checkpoint"]


def assert_figures(records: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
    """The records are those of then, losses to the last digit under the torch of then."""
    for record, row in zip(records, wanted["metrics"], strict=True):
        losses = {key: value for key, value in row.items() if key in ("train_loss", "lr")}
        assert {key: record[key] for key in losses} == pytest.approx(losses, rel=ROUNDING, abs=0)
        assert not SAME_TORCH or record == row


@pytest.mark.parametrize("name", ALONE)
def test_run_goes_on_bit_for_bit(gone_on: tuple[Path, str], name: str) -> None:
    assert_as_then(gone_on[0], name)


def test_evaluation_counts_the_same(gone_on: tuple[Path, str]) -> None:
    told = [json.loads(line) for line in gone_on[1].splitlines() if line.startswith('{"dataset"')]
    wanted = list(EXPECTED["evaluate"].values())
    losses = [[score.pop("loss") for score in scores] for scores in (told, wanted)]
    assert told == wanted and losses[0] == pytest.approx(losses[1], rel=ROUNDING, abs=0)


def test_two_ranks_go_on_bit_for_bit(tmp_path: Path) -> None:
    folder = laid_out(tmp_path)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port())}
    calls = [("train", RUNS["ranks"]["words"])]
    processes = [go_on(folder, calls, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert_as_then(folder, "ranks")
