"""What recording does where it fails, what it keeps, and what can be compiled."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mini_cifar
import pytest
import torch
import torch.distributed as dist
from recorded_steps import Side, from_the_same_state, trajectories, words_for
from torch import Tensor, fx, nn

from pipeline.config import OptimConfig, RuntimeConfig
from pipeline.contracts import Batch, ModelOutput
from pipeline.engine import train_step, warm_up
from pipeline.engine.distributed import parallel
from pipeline.engine.distributed.parallel import World
from pipeline.engine.evaluate import Evaluation
from pipeline.engine.graph import cache
from pipeline.engine.graph.backends import Body, FusedCapture, NotCapturable, Recorder, Tracer
from pipeline.engine.graph.cache import GraphCache
from pipeline.engine.graph.dry_run import untouched
from pipeline.engine.optimizers import build_optimizer
from pipeline.engine.update import Updater

WORLD = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)
REASON = "a capture failed: not permitted"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"), train=14)


class Refusing:
    """A capture that fails, as CUDA's does: what `body` computes meanwhile is written nowhere. runs: plain ones."""

    makes = "replayed"
    short_batches = evaluations = True

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.runs = warm_up, 0
        self.inside = False

    def run(self, body: Body) -> None:
        self.runs += 1
        self.inside = True
        body()
        self.inside = False

    def fuse(self, make: Callable[..., Tensor], fallback: object = None) -> Callable[..., Tensor]:
        return make

    def record(self, body: Body, *others: object) -> Callable[[], bool]:
        raise NotCapturable(REASON, ran=False)


class BrokenOff(Refusing):
    """The capture breaks off inside the update: gradients are there, and nobody has computed them."""

    def record(self, body: Body, *others: Any) -> Callable[[], bool]:
        with pytest.MonkeyPatch.context() as patched, untouched(others[0]):
            patched.setattr(Updater, "update", broken_off)
            with contextlib.suppress(NotCapturable):
                body()
        raise NotCapturable(REASON, ran=False)


def broken_off(updater: Updater, loss: Tensor) -> Tensor:
    for p in updater.parameters:
        p.grad = torch.full_like(p, 1000.0)
    updater.kinds = [[torch.full_like(p, 1000.0) for p in updater.parameters] for _ in range(2)]
    raise NotCapturable(REASON, ran=False)


@pytest.mark.parametrize(
    "words",
    [
        ("kd", "optim.accumulate=2"),
        pytest.param(("kd",), marks=pytest.mark.slow),
        pytest.param(("kd+dot",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_after_a_failed_capture_gradients_are_computed_anew(data: Path, words: tuple[str, ...]) -> None:
    gaps, side = from_the_same_state(words_for(data, *words), BrokenOff(1), 4)
    assert max(gaps) == 0 and side.notes == [f"runtime.compile=graph: {REASON}; steps run plainly"]
    assert side.train_step.ran.graph == f"fallback: {REASON}"


def test_the_scaler_is_told_too() -> None:
    """fp16: it counts who has unscaled and stepped since its last update."""
    module = nn.Linear(3, 2)
    optim = OptimConfig()
    updater = Updater(module, module, build_optimizer(module, optim), optim, fp16=True)
    for _ in range(2):
        updater.set_lr(0.1)
        updater.backward(module(torch.ones(1, 3)).sum())
        updater.scaler.unscale_(updater.optimizer)
        updater.forget()
    assert module.weight.grad is None


class Sum:
    """A function of one tensor that adds it up. told: why it is not recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self.total = torch.zeros(())
        self.told: list[tuple[str, str]] = []
        self.recorded = GraphCache(self._add, recorder, lambda *told: self.told.append(told), lambda: [self.total])

    def _add(self, tensors: Mapping[str, Tensor]) -> None:
        self.total.add_(tensors["x"].sum())

    def __call__(self, rows: int = 1) -> bool:
        return self.recorded({"x": torch.ones(rows)})


def test_a_fused_capture_that_fails_leaves_compiled_steps() -> None:
    """Traced, twice compiled, the capture that fails (and is left out of the clock), compiled."""
    capture = Refusing(2)
    total = Sum(FusedCapture(capture, Tracer(lambda graph: graph)))  # type: ignore[arg-type]
    assert [total() for _ in range(6)] == [True, False, False, True, False, False]
    assert total.total == 6 and capture.runs == 5 and total.recorded.graphs == 1
    assert total.told == [(REASON, "run compiled, but are not captured")]


class Mean(nn.Module):
    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        return ModelOutput(image_BCHW.mean((2, 3)), image_BCHW)


def test_an_evaluation_says_that_it_is_not_recorded() -> None:
    label_B = torch.tensor([0, 1])
    batch = Batch(image_BCHW=torch.rand(2, 3, 4, 4), label_B=label_B, index_B=label_B)
    told: list[str] = []
    arguments = (Mean(), lambda output: output.logits_BK, [batch, batch], WORLD, contextlib.nullcontext)
    found = Evaluation(*arguments, recorder=Refusing(1), note=told.append)()  # type: ignore[arg-type]
    assert found == Evaluation(*arguments)()  # type: ignore[arg-type]
    assert told == [f"runtime.compile=graph: evaluation: {REASON}; its batches run plainly"]


def test_a_value_that_is_read_on_the_host_is_refused() -> None:
    """The run up to there leaves no trace."""
    total = torch.zeros(())
    told: list[tuple[str, str]] = []

    def add(tensors: Mapping[str, Tensor]) -> None:
        total.add_(1)
        if tensors["x"].sum() > 0:
            total.add_(1)

    function = GraphCache(add, Tracer(lambda graph: graph), lambda *why: told.append(why), lambda: [total])
    assert [function({"x": torch.ones(2)}) for _ in range(2)] == [True, False]
    assert total == 4 and len(told) == 1 and "depends on values" in told[0][0]


def test_only_some_shapes_have_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 3)
    capture = Refusing(99)
    total = Sum(capture)
    for rows in (1, 2, 3, 4, 5, 4, 1):
        assert not total(rows)
    assert len(total.recorded._slots) == 3 and total.total == 20 and capture.runs == 7


def test_gradients_are_traced_in_the_thread_of_the_trace() -> None:
    """On CUDA the engine would otherwise run the backward in a thread of its own."""
    threads: list[bool] = []

    def body() -> None:
        threads.append(torch._C._is_multithreading_enabled())

    with contextlib.suppress(Exception):  # nothing to record
        Tracer(None).record(body, list)
    assert threads == [False] and torch._C._is_multithreading_enabled()


def aot(graph: fx.GraphModule) -> Callable[..., object]:
    """Compiled as far as shapes and functional forms go, without kernels."""
    return torch.compile(graph, backend="aot_eager", dynamic=False, fullgraph=True)


UPDATES = {
    "adamw": OptimConfig(name="adamw", lr=0.01),
    "sgd": OptimConfig(),
    "no momentum": OptimConfig(momentum=0),
}


def updates(name: str, compile_graph: Callable[[fx.GraphModule], Callable[..., object]]) -> float:
    """Largest gap between weights after four compiled steps and after four plain ones."""
    x, weights = torch.linspace(-1, 1, 12).view(3, 4), []
    for compiled in (False, True):
        torch.manual_seed(0)
        module, optim = nn.Linear(4, 2), UPDATES[name]
        updater = Updater(module, module, build_optimizer(module, optim), optim, fp16=False, rate_on_device=True)
        updater.set_lr(optim.lr)

        def step(module: nn.Module = module, updater: Updater = updater) -> None:
            loss = module(x).square().mean()
            updater.backward(loss)
            updater.update(loss)

        def state(module: nn.Module = module, updater: Updater = updater) -> list[Tensor]:
            return [*module.parameters(), *updater.tensors()]

        take = Tracer(compile_graph).record(step, state) if compiled else step
        for _ in range(3 if compiled else 4):
            take()
        weights.append(module.weight.detach())
    return float((weights[0] - weights[1]).abs().max())


def test_updates_can_be_compiled() -> None:
    assert updates("adamw", aot) == updates("no momentum", aot) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", UPDATES)
def test_updates_compiled_by_inductor(name: str) -> None:
    assert updates(name, parallel.compile_graph) < 1e-7


@pytest.mark.slow
def test_steps_with_adamw_compiled_by_inductor(data: Path) -> None:
    """float64: the first update is the gradient's sign, in float32 that of rounding where the gradient is 0."""
    compiled = []

    def counted(graph: fx.GraphModule) -> Callable[..., object]:
        compiled.append(graph)
        return parallel.compile_graph(graph)

    gap = trajectories(words_for(data, "kd", "optim.name=adamw", "optim.lr=0.001"), Tracer(counted), 6)
    assert gap < 1e-7 and len(compiled) == 1


def test_what_cannot_be_compiled_runs_plainly() -> None:
    def refusing(graph: fx.GraphModule) -> Callable[..., object]:
        def compiled(*inputs: Tensor) -> object:
            raise torch._dynamo.exc.Unsupported("no such operation\nof which more could be said", "")

        return compiled

    total = Sum(Tracer(refusing))
    assert [total() for _ in range(3)] == [True, False, False] and total.total == 3
    assert total.told == [("the step cannot be compiled: no such operation", "run plainly")]


def test_ddp_is_built_and_settled_on_the_stream_of_the_capture(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture, inside = Refusing(9), []
    for owner, name in ((train_step, "wrap_step"), (warm_up, "settle_buckets")):
        before = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, before=before, **k: (inside.append(capture.inside), before(*a, **k))[1]
        )
    side = Side(words_for(data, "kd"), None)
    step = train_step.TrainStep(side.parts, side.train_step.config, WORLD, capture, print)  # type: ignore[arg-type]
    warm_up.warm_up(step)
    assert inside == [False, True, True]


def test_ddp_forgets_a_backward_that_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    x = torch.ones(1, 2)

    def stop(*_: object) -> None:
        raise RuntimeError("not permitted")

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        two = World(rank=0, ranks=2, device=torch.device("cpu"), side=None)
        step = parallel.wrap_step(module, RuntimeConfig(), two)
        step(x).sum().backward()
        hook = module[0].weight.register_hook(stop)
        with pytest.raises(RuntimeError, match="not permitted"):
            step(x).sum().backward()
        hook.remove()
        parallel.forget_reduction(step)
        module.zero_grad()
        step(x).sum().backward()
    finally:
        dist.destroy_process_group()
    wanted = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), wanted, strict=True) if p.grad is not None)
