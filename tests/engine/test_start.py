"""What joining the ranks sets for the process, and what it refuses."""

import inspect
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from pipeline.config import OptimConfig, RuntimeConfig
from pipeline.contracts import InputError
from pipeline.engine.distributed.parallel import pick_device, start
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.update import UNCAPTURED, Updater


@pytest.fixture
def switches() -> Iterator[None]:
    """Torch's, put back."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


def test_deterministic_steps_do_not_fill_what_they_write_anyway(
    switches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with start(RuntimeConfig(device="cpu", deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_fork_of_what_has_used_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch would end in a traceback at the first tensor, in a child whose parent has only counted devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    for device in ("auto", "cuda"):
        with pytest.raises(InputError, match="forked this one has used CUDA"):
            pick_device(RuntimeConfig(device=device))
    assert pick_device(RuntimeConfig(device="cpu")).type == "cpu"


def test_plain_steps_before_a_capture_are_no_warning() -> None:
    module = nn.Linear(2, 2)
    optim = OptimConfig(name="adamw")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Updater(module, module, build_optimizer(module, optim), optim, fp16=False, rate_on_device=True)
        warnings.warn(f"{UNCAPTURED} or some of all the param_groups ...", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in seen] == ["another"]
    assert UNCAPTURED in inspect.getsource(Optimizer)
