"""Each test begins with torch's own switches: trainings and benchmarks in this process set them."""

from collections.abc import Iterator
from pathlib import Path

import mini_cifar
import pytest
import torch


@pytest.fixture(autouse=True)
def switches() -> None:
    """As torch has them at its start."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-100's archive with 14 training images."""
    return mini_cifar.write(tmp_path_factory.mktemp("data"), train=14)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only kernels that give the same bits each time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
