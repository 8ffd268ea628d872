"""Captures that fail on a GPU: what runs instead, and that allocator, random numbers and streams work on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from recorded_steps import from_the_same_state, words_for
from torch import Tensor, fx

from pipeline import train
from pipeline.contracts import ModelOutput
from pipeline.engine.graph.backends import CudaRecorder, FusedCapture, NotCapturable, Tracer
from pipeline.engine.graph.cache import GraphCache
from pipeline.engine.update import Updater
from pipeline.teachers.beside import SideStream

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
MEBIBYTE = 1 << 20


def recorder() -> CudaRecorder:
    return CudaRecorder(CUDA, 1, lambda make: make)


def look(tensor: Tensor) -> None:
    """A read on the host, which a capture forbids."""
    if torch.cuda.is_current_stream_capturing():
        tensor.sum().item()


def fail(made: CudaRecorder) -> None:
    """A capture of random numbers that is broken off."""
    place = torch.zeros(8, device=CUDA)

    def body() -> None:
        place.copy_(torch.rand(8, device=CUDA))
        look(place)

    with pytest.raises(NotCapturable, match="a capture failed"):
        made.record(body, list)


@pytest.mark.parametrize("words", [("kd",), ("kd+dot",), ("kd", "runtime.amp=fp16")], ids=" ".join)
def test_the_step_goes_on_plainly(
    data: Path, monkeypatch: pytest.MonkeyPatch, deterministic: None, words: tuple[str, ...]
) -> None:
    """It breaks off behind the backward: gradients are assigned, and were never computed."""
    update = Updater.update

    def looking(self: Updater, loss: Tensor) -> Tensor:
        look(loss)
        return update(self, loss)

    monkeypatch.setattr(Updater, "update", looking)
    gaps, side = from_the_same_state(words_for(data, *words), recorder(), 12, CUDA)
    assert max(gaps) == 0 and len(side.notes) == 1 and side.take.graph is not None
    assert side.take.graph.startswith("fallback: a capture failed: ")
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_another_capture_succeeds_afterwards() -> None:
    made, total = recorder(), torch.zeros((), device=CUDA)
    fail(made)
    replay = made.record(lambda: total.add_(1), list)
    replay()
    assert total.item() == 2


def test_random_numbers_are_those_without_the_failure() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(8, device=CUDA)
    torch.manual_seed(3)
    fail(recorder())
    assert torch.equal(torch.rand(8, device=CUDA), wanted)


def test_graphs_of_before_draw_on() -> None:
    made, place = recorder(), torch.zeros(8, device=CUDA)
    replay = made.record(lambda: place.copy_(torch.rand(8, device=CUDA)), list)
    first = place.clone()
    fail(made)
    replay()
    assert not torch.equal(place, first)


def test_memory_that_another_stream_has_read_is_used_again() -> None:
    fail(recorder())
    side = torch.cuda.Stream(CUDA)
    held = []
    for _ in range(40):
        tensor = torch.zeros(4 * MEBIBYTE, device=CUDA)
        with torch.cuda.stream(side):
            tensor.sum()
        tensor.record_stream(side)
        del tensor
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_reserved(CUDA))
    assert held[-1] <= held[4]


def test_a_fused_capture_leaves_compiled_steps() -> None:
    def uncompiled(graph: fx.GraphModule) -> Callable[..., None]:
        def run(*inputs: Tensor) -> None:
            graph(*inputs)
            look(inputs[0])

        return run

    total, told = torch.zeros((), device=CUDA), list[tuple[str, str]]()

    def add(tensors: Mapping[str, Tensor]) -> None:
        total.add_(tensors["x"].sum())

    fused = FusedCapture(recorder(), Tracer(uncompiled))
    function = GraphCache(add, fused, lambda *why: told.append(why), lambda: [total])
    made = [function({"x": torch.ones(3, device=CUDA)}) for _ in range(8)]
    assert made == [True, False, False, False, True, False, False, False]
    assert total.item() == 24 and [instead for _, instead in told] == ["run compiled, but are not captured"]


def test_a_side_stream_without_work_may_be_joined_in_a_capture() -> None:
    """As the student's evaluation does under teacher.stream; with work it is part of the capture."""
    made, side, total = recorder(), SideStream(CUDA), torch.zeros((), device=CUDA)

    def alone() -> None:
        total.add_(1)
        side.join()

    def work() -> ModelOutput:
        return ModelOutput(total.view(1, 1) * 2, total.view(1, 1))

    def both() -> None:
        output = side.run(work, total)
        side.join()
        total.add_(output.logits_BK.sum())

    made.run(both)
    assert total.item() == 0
    made.record(alone, list)()
    made.record(both, list)()
    assert total.item() == 18


@pytest.mark.parametrize("method", ["kd", "crd"])
def test_a_trace_follows_the_backward(data: Path, method: str) -> None:
    """Autograd's own thread for the device would not be followed."""
    gaps, side = from_the_same_state(words_for(data, method), Tracer(None), 8, CUDA)
    assert max(gaps) < 1e-4 and side.train_step.graph.graphs == 2 and side.notes == []


@pytest.mark.parametrize(("mode", "ran"), [("graph", "replayed"), ("off", "off")])
def test_the_summary_says_what_ran(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, ran: str
) -> None:
    """The teacher has a stream of its own: evaluation is captured beside it."""
    base = [*words_for(data, "kd"), "optim.epochs=5", f"run.dir={tmp_path}", "log.tensorboard=false", "run.name=one"]
    train.main([*base, f"runtime.compile={mode}", "runtime.device=cuda", "teacher.stream=true"])
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["graph"] == ran
    assert "run plainly" not in capsys.readouterr().out
