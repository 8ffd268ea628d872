"""Options and fixtures of the whole suite."""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started behind a `&` of a script: Ctrl-C is tested all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE), str(HERE / "golden")]
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", type=Path, default=None, help="run the golden tests over DIR instead of our own copies"
    )
    parser.addoption("--fuzz-seed", type=int, default=1, help="of the cases of tests/fuzz")
    parser.addoption("--fuzz-cases", type=int, default=300, help="how many each test of tests/fuzz makes")


@pytest.fixture
def fuzz_rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of one fuzz test: --fuzz-seed and the test's name say them."""
    return random.Random(f"{request.config.getoption('--fuzz-seed')} {request.node.name}")


@pytest.fixture
def fuzz_cases(request: pytest.FixtureRequest) -> int:
    """How many cases a fuzz test makes."""
    cases: int = request.config.getoption("--fuzz-cases")
    return cases


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of configs/ that layers are read from."""
    from pipeline.config import layers

    copy = tmp_path / "configs"
    shutil.copytree(layers.CONFIGS, copy)
    monkeypatch.setattr(layers, "CONFIGS", copy)
    return copy


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        from golden_cases import cases_in, golden_folders

        cases = [c for folder in golden_folders(metafunc.config, "manifest.json") for c in cases_in(folder)]
        metafunc.parametrize("golden_case", cases, ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --golden, only the cases of that folder; elsewhere, no test without a case."""
    if config.getoption("--golden") is None:
        return
    chosen = [item for item in items if _is_case(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _is_case(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return any(
        parameters.get(n) not in (None, pytest.HIDDEN_PARAM) and not _is_unset(parameters[n])
        for n in parameters
        if n.startswith("golden_")
    )


def _is_unset(value: object) -> bool:
    return type(value).__name__ == "NotSetType"
