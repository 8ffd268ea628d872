"""ruff and mypy, on everything."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tool(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_check() -> None:
    tool("ruff", "check", "--no-cache", ".")


def test_ruff_format() -> None:
    tool("ruff", "format", "--no-cache", "--check", ".")


def test_types() -> None:
    tool("mypy")
