"""Entry points called in this process, as their command lines are."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline import cli

ROOT = Path(__file__).resolve().parents[1]


def call(module: ModuleType, words: list[str], capture: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python module words`."""
    before = sys.argv
    sys.argv = [module.__name__, *words]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.run(module.main, module.help_text, getattr(module, "FAILURES", {}))
    finally:
        sys.argv = before
    out, err = capture.readouterr()
    return int(ended.value.code or 0), out, err
