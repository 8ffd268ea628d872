"""CUDA's captures where they fail, simulated: what torch leaves undone, and streams that wait for each other."""

from subprocess import CalledProcessError

import pytest
import torch
from fake_cuda import DEVICE, FakeCuda, Stream
from torch import Tensor

from pipeline.contracts import ModelOutput
from pipeline.engine.graph import capture
from pipeline.engine.graph.backends import CudaRecorder, NotCapturable
from pipeline.process import machine_errors
from pipeline.teachers.beside import SideStream


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def forbidden() -> None:
    raise RuntimeError("operation not permitted when stream is capturing\nsearch for it")


def refused(cuda: FakeCuda) -> str:
    """What is said of a capture that fails."""
    recorder = CudaRecorder(DEVICE, 1, lambda make: make)
    with pytest.raises(NotCapturable) as error:
        recorder.record(forbidden, list)
    assert not error.value.ran
    return str(error.value)


def test_the_reason_is_the_first_error(cuda: FakeCuda) -> None:
    assert refused(cuda) == "a capture failed: operation not permitted when stream is capturing"


def test_what_follows_runs_on_the_stream_of_before(cuda: FakeCuda) -> None:
    refused(cuda)
    assert cuda.present is cuda.default


def test_allocator_and_random_numbers_are_told(cuda: FakeCuda) -> None:
    refused(cuda)
    assert cuda.ended == [(0, (0, 1))] and not cuda.going_on and not cuda.random.any()


def test_a_device_that_does_not_compute_is_named(cuda: FakeCuda) -> None:
    cuda.broken = True
    recorder = CudaRecorder(DEVICE, 1, lambda make: make)
    said = r"does not compute since \(Offset increment .*compile=off"
    with pytest.raises(capture.DeviceBroken, match=said) as error:
        recorder.record(forbidden, list)
    assert machine_errors.known(error.value) == str(error.value)  # one line, and no traceback


def test_a_capture_that_succeeds_is_replayed_once(cuda: FakeCuda) -> None:
    ran: list[Stream] = []
    recorder = CudaRecorder(DEVICE, 1, lambda make: make)
    replay = recorder.record(lambda: ran.append(cuda.present), list)
    assert ran == [recorder.stream] and replay() is False and cuda.present is cuda.default


@pytest.mark.parametrize("kind", [RuntimeError, FileNotFoundError, CalledProcessError])
def test_pixels_that_cannot_be_compiled_are_made_plainly(cuda: FakeCuda, kind: type[Exception]) -> None:
    """Without a C compiler Triton makes no kernel; the capture itself needs none."""
    told: list[str] = []

    def broken(tensor: Tensor) -> Tensor:
        raise CalledProcessError(1, "cc") if kind is CalledProcessError else kind("no C compiler\nset CC")

    recorder = CudaRecorder(DEVICE, 1, lambda make: broken)
    for _ in range(3):
        make = recorder.fuse(torch.neg, lambda reason, instead: told.append(f"{reason}; {instead}"))
        assert make(torch.full((), 2.0)) == -2
    assert len(told) == 1 and told[0].startswith("pixels cannot be compiled: ")


def taught() -> ModelOutput:
    return ModelOutput(torch.zeros(2, 3), torch.zeros(2, 4))


def test_a_stream_without_work_is_not_waited_for(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's evaluation joins, too: in a capture that is an error."""
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    side = SideStream(DEVICE)
    side.join()
    assert cuda.default.waits == []
    side.run(taught, torch.zeros(2))
    side.join()
    side.join()
    assert cuda.default.waits == [side.stream] and side.stream.waits == [cuda.default]
