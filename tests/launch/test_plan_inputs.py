"""The plan's inputs out of a benchmark's JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli import call

from launch import scaling
from launch.tables.benchmark_files import inputs_of, with_measured

STEP: dict[str, Any] = {
    **{"loader": "torch", "loaders": {}, "decode_limit": None, "images_a_step": 32, "parameters": 5000},
    **{"step": {"training loop": {"ms_per_step": 250.0}}, "backward_share": 0.4},
}
LOADER: dict[str, Any] = {
    **{"loader": "torch", "step": None, "decode_limit": {"mean_bytes": 1000}},
    "loaders": {"ffcv": {"images_per_second": 900.0}, "torch": {"images_per_second": 300.0}},
}


def written(folder: Path, name: str, report: Any) -> str:
    path = folder / name
    path.write_text(json.dumps(report))
    return str(path)


def test_two_reports_make_one_set_of_inputs(tmp_path: Path) -> None:
    step, loader = written(tmp_path, "s.json", STEP), written(tmp_path, "l.json", LOADER)
    found = inputs_of([step, loader])
    assert found == {
        **{"step_ms": 250, "images_per_gpu": 32, "parameters": 5000, "backward_share": 0.4},
        **{"loader_per_node": 300, "image_bytes": 1000},
    }
    assert inputs_of([written(tmp_path, "o.json", LOADER | {"loader": "dali"})])["loader_per_node"] == 900
    words, used = with_measured([f"from={step},{loader}", "step_ms=9", "nodes=2"])
    assert "step_ms" not in used and words[-2:] == ["step_ms=9", "nodes=2"]
    assert with_measured(["nodes=2"]) == (["nodes=2"], {})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "s.json", STEP)
    code, out, _ = call(scaling, [f"from={path}", "nodes=1", "gpus_per_node=1", "image_bytes=0"], capsys)
    assert code == 0
    assert "measured: step_ms=250, images_per_gpu=32" in out and "250.0" in out


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "No such file"),
        ([], "not a file of pipeline/benchmark.py"),
        ({"step": 3}, "not a file of pipeline/benchmark.py"),
        ({}, "no figures"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Any, reason: str) -> None:
    path = str(tmp_path / "none.json") if report is None else written(tmp_path, "a.json", report)
    code, _, err = call(scaling, [f"from={path}"], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err
