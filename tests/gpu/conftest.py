"""Each test begins with torch's own switches: trainings and benchmarks in this process set them."""

import pytest
import torch


@pytest.fixture(autouse=True)
def switches() -> None:
    """As torch has them at its start."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    torch.use_deterministic_algorithms(False)
