"""tools/gpu on a CPU: every stage runs, tiny, so that the tool is not stale when a GPU is at hand."""

from pathlib import Path

import pytest

from tools.gpu import probe
from tools.gpu.probes import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs(stage: str, tmp_path: Path) -> None:
    bench = probe.run(stage, "cpu", tmp_path / "out", tmp_path / "scratch")
    lines = (tmp_path / "out" / "lines").read_text().splitlines()
    assert bench.failed == [] and lines, lines
    assert all(line.count("|") == 3 and line.startswith(stage) for line in lines)
