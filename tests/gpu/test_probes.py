"""The stages of tools/gpu that say right or wrong, each in a process of its own: what one spoils no other meets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.gpu.probes import CORRECTNESS

pytestmark = pytest.mark.gpu
PROBE = Path(__file__).resolve().parents[2] / "tools" / "gpu" / "probe.py"


@pytest.mark.parametrize("stage", CORRECTNESS)
def test_nothing_fails(stage: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"} | {"OUT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(PROBE), stage], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
