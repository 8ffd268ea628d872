"""runtime.compile=graph: a recorded step against the plain one; what cannot be recorded says so."""

import json
from collections.abc import Callable
from pathlib import Path

import mini_cifar
import pytest
import torch
from recorded_steps import Side, from_the_same_state, trajectories, words_for

from pipeline import train
from pipeline.distillers import DISTILLERS
from pipeline.engine.distributed import parallel
from pipeline.engine.graph import backends
from pipeline.engine.graph.backends import NotCapturable, Tracer

# What CUDA's kernels of it ask on the host; the tracer finds shapes that depend on data by itself.
ASKS_ON_CUDA = {"aten._linalg_svd.default", "aten._linalg_eigh.default", "aten.multinomial.default"}
METHODS = [name for name in DISTILLERS.names() if not DISTILLERS.get(name).modifier] + ["kd+dot", "dkd+crd"]
# Steps of a trajectory: the last bit in which reviewkd's traced gradients differ grows fourfold a step on these images
# (3e-13 after 6 steps, 1e-9 after 12).
FAR = {"reviewkd": 8}
QUICK = ["kd", "crd", "kd+dot"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"), train=14)


def capturable(method: str) -> bool:
    return all(DISTILLERS.get(part).capturable for part in method.split("+"))


def check(data: Path, method: str, steps: int) -> None:
    gaps, recorded = from_the_same_state(words_for(data, method), Tracer(None), steps)
    if not capturable(method):
        assert recorded.notes == [f"runtime.compile=graph: method {method} reads values on the host; steps run plainly"]
        return
    # Gradients that meet are added up in another memory layout while a trace is made: the last bit of some.
    assert max(gaps) < 2e-6 and recorded.train_step.graph.graphs == 2 and recorded.notes == []


@pytest.mark.parametrize("method", QUICK)
def test_a_recorded_step_equals_the_plain_one(data: Path, method: str) -> None:
    check(data, method, 8)


def test_trajectories_in_float64(data: Path) -> None:
    assert trajectories(words_for(data, "kd+dot"), Tracer(None), 7) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_fifty_recorded_steps(data: Path, method: str) -> None:
    check(data, method, 50)
    if capturable(method):
        assert trajectories(words_for(data, method), Tracer(None), FAR.get(method, 50)) < 1e-9


@pytest.mark.parametrize(
    "more",
    [
        ["optim.ema_decay=0.9", "optim.clip_norm=1.0"],
        ["optim.name=adamw", "optim.lr=0.001"],
        ["optim.accumulate=2"],
        ["runtime.amp=bf16"],
        ["data.crop=window", "data.min_image_size=16", "data.grow_epochs=[3,5]"],
    ],
    ids=["ema+clip", "adamw", "accumulate", "bf16", "growing images"],
)
def test_with_what_a_step_may_hold(data: Path, more: list[str]) -> None:
    gaps, recorded = from_the_same_state(words_for(data, "kd", *more), Tracer(None), 8)
    assert max(gaps) < 2e-6 and recorded.train_step.graph.graphs >= 2 and recorded.notes == []


def operations(data: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the operations of a recorded step; {'values'} where the tracer refuses."""
    found: set[str] = set()
    lifted = backends.lifted

    def noted(graph: torch.fx.GraphModule) -> list[torch.Tensor]:
        found.update(str(node.target) for node in graph.graph.nodes)
        return lifted(graph)

    monkeypatch.setattr(backends, "lifted", noted)
    for part in method.split("+"):
        monkeypatch.setattr(DISTILLERS.get(part), "capturable", True)
    at_once = Tracer(None)
    at_once.warm_up = 0
    side = Side(words_for(data, method), at_once)
    for number, batch in enumerate(side.batches(1)):
        side.step(number, batch)
    return {"values"} if side.notes else found


@pytest.mark.parametrize("method", METHODS)
def test_methods_declare_whether_they_can_be_captured(data: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = capturable(method)
    found = operations(data, method, monkeypatch)
    assert declared == (found.isdisjoint(ASKS_ON_CUDA) and found != {"values"})
    assert found == {"values"} or "aten.convolution_backward.default" in found


def training(data: Path, folder: Path, name: str, *more: str) -> bytes:
    """The student's file of a training of four epochs, two steps each."""
    base = [*words_for(data, "kd"), "optim.epochs=4", f"run.dir={folder}", "log.tensorboard=false"]
    train.main([*base, f"run.name={name}", "runtime.device=cpu", *more])
    return (folder / name / "student.safetensors").read_bytes()


@pytest.mark.parametrize(
    "more", [["optim.ema_decay=0.9"], ["optim.name=adamw", "optim.lr=0.001"]], ids=["sgd", "adamw"]
)
def test_a_training_of_recorded_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """The whole program, with traces that are replayed uncompiled: the files of the plain run, byte for byte.

    Every whole batch goes through the trace, the first one too, although it was taken from that very step.
    """
    replayed = []

    def counted(graph: torch.fx.GraphModule) -> Callable[..., None]:
        return lambda *inputs: replayed.append(graph(*inputs))

    monkeypatch.setattr(parallel, "compile_graph", counted)
    plain = training(data, tmp_path, "plain", *more)
    assert plain == training(data, tmp_path, "graph", *more, "runtime.compile=graph") and len(replayed) == 4
    assert json.loads((tmp_path / "graph" / "summary.json").read_text())["graph"] == "compiled"


def test_what_looks_at_values_is_refused() -> None:
    x_N = torch.tensor([1.0, -1.0, 2.0])
    total = torch.zeros(())

    def add() -> None:
        total.add_((x_N > 0).nonzero().shape[0])

    with pytest.raises(NotCapturable, match="depends on values"):
        Tracer(None).record(add, list)
    assert total == 2  # it was run all the same


@pytest.mark.slow
def test_compiled_by_inductor(data: Path) -> None:
    """Two graphs of about a minute each. float32: other fusions round otherwise."""
    gaps, recorded = from_the_same_state(words_for(data, "kd", "optim.ema_decay=0.9"), tracer_at_once(), 50)
    assert max(gaps) < 2e-3 and recorded.train_step.graph.graphs == 2
    assert trajectories(words_for(data, "kd"), tracer_at_once(), 20) < 1e-7


@pytest.mark.slow
def test_compiled_steps_resume_bit_for_bit(data: Path, tmp_path: Path) -> None:
    """Inductor again; stopped after a short batch and after a whole one."""
    whole = training(data, tmp_path, "whole", "runtime.compile=graph")
    for number, steps in enumerate((2, 5)):
        words = (f"run{number}", "runtime.compile=graph", "run.checkpoint_steps=1")
        training(data, tmp_path, *words, f"run.limit_steps={steps}")
        (tmp_path / words[0] / "summary.json").unlink()
        assert training(data, tmp_path, *words) == whole


def tracer_at_once() -> Tracer:
    tracer = Tracer(parallel.compile_graph)
    tracer.short_batches = True
    return tracer
