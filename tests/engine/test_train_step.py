"""TrainStep: how deep the student lies below the loop, the order of its body, and what a graph of it is given."""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import mini_cifar
import pytest
import torch
from recorded_steps import Side, largest_gap, words_for
from torch.utils import _pytree as pytree

import pipeline
from pipeline import train
from pipeline.contracts import Batch, BatchInfo, Mix, ModelOutput, Stream
from pipeline.distillers.kd import KD
from pipeline.engine.graph.backends import Tracer
from pipeline.engine.train_step import StepAt, StepInputs, TrainStep
from pipeline.models.resnet_cifar import CifarResNet
from pipeline.teachers.live import LiveTeacher

HOME = str(Path(pipeline.__file__).parent)
# What the body of a step of two slices calls, in this order.
SLICE = ["taught", "unreduced", "forward", "backward"]
BODY = ["finished", "main_batch", "split", *SLICE, *SLICE, "merged", "update", "add", "add", "observe"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"), train=14)


def own_frames(frame: FrameType | None) -> list[str]:
    """Names of the project's functions from the loop down to `frame`."""
    names: list[str] = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(HOME):
            names.append(frame.f_code.co_name)
        if frame.f_code.co_name == "train_epoch":
            break
        frame = frame.f_back
    return names[::-1]


def train_plainly(data: Path, folder: Path, *more: str) -> None:
    words = [*words_for(data, "kd"), "optim.epochs=1", "runtime.device=cpu", "log.tensorboard=false"]
    train.main([*words, f"run.dir={folder}", "run.name=a", *more])


def test_the_student_lies_three_calls_below_the_loop(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most four are promised. torch's own frames (Module.__call__) are not counted."""
    depths: set[tuple[str, ...]] = set()
    forward = CifarResNet.forward

    def noted(network: Any, *args: Any, **keys: Any) -> Any:
        if network.training:
            depths.add(tuple(own_frames(sys._getframe())))
        return forward(network, *args, **keys)

    monkeypatch.setattr(CifarResNet, "forward", noted)
    train_plainly(data, tmp_path)
    assert depths == {("train_epoch", "run", "take", "forward")}
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["graph"] == "off"


def test_the_body_read_step_by_step(data: Path) -> None:
    """Followed with sys.settrace: what it calls itself, in the order of its text."""
    side = Side(words_for(data, "kd", "optim.accumulate=2"), None)
    batch, calls = side.batches_of(0)[0], []
    code = TrainStep.take.__code__

    def trace(frame: FrameType, event: str, _: object) -> None:
        caller = frame.f_back
        while caller is not None and "/torch/" in caller.f_code.co_filename:  # Module.__call__ in between
            caller = caller.f_back
        if event == "call" and caller is not None and caller.f_code is code and HOME in frame.f_code.co_filename:
            calls.append(frame.f_code.co_name)

    sys.settrace(trace)
    try:
        side.train_step.take(StepInputs(batch, {}))
    finally:
        sys.settrace(None)
    assert [name for name in calls if name in BODY] == BODY
    body = ast.parse(textwrap.dedent(inspect.getsource(TrainStep.take))).body[0]
    assert isinstance(body, ast.FunctionDef) and body.end_lineno is not None
    assert body.end_lineno - body.body[0].lineno <= 20


class TwoViews(KD):
    """A method with another view, under a name with a blank in it."""

    @property
    def streams(self) -> dict[str, Stream]:
        return {"strong view": Stream(kind="strong")}

    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> list[Batch]:
        return [batch.showing("strong view")]

    def forward(self, student: Any, teacher: Any, batch: Any, progress: Any, *extra: Any) -> dict[str, torch.Tensor]:
        (other,) = extra
        terms = super().forward(student, teacher, batch, progress)
        return terms | {"other": super().forward(other.student, other.teacher, other.batch, progress)["kd"]}


class Remembers:
    """A cached teacher in short: what a live one said of each view of the batch, looked up on the host."""

    recorded, compares, views, network = True, False, None, None

    def __init__(self, live: LiveTeacher) -> None:
        self.live, self.provides = live, live.provides

    def modules(self) -> tuple[()]:
        return ()

    def __call__(self, batch: Batch) -> ModelOutput:
        assert batch.info.host_index_B is not None, "looked up inside a graph"
        return self.live(batch)._replace(features=(), preact_features=())


def seen_twice(data: Path, graph: bool) -> Iterator[dict[str, torch.Tensor]]:
    side = Side(words_for(data, "kd"), None)
    torch.manual_seed(0)
    method = TwoViews(KD.Config())
    parts = replace(side.parts, distiller=method, teacher=Remembers(side.parts.teacher))
    recorder = Tracer(None) if graph else None
    side.train_step = TrainStep(parts, side.train_step.config, side.train_step.world, recorder, print)
    side.meters, side.latch = side.train_step.meters, side.train_step.latch
    for number, batch in enumerate(side.batches(6)):
        side.step(number, replace(batch, streams={"strong view": batch.image_BCHW.flip(3)}))
        yield side.state()
    assert side.train_step.graph.graphs == (2 if graph else 0)


def test_a_cached_teacher_of_two_views_in_a_graph(data: Path) -> None:
    """The name of a view may be any text: what was looked up travels by structure, not in names that are cut apart."""
    both = zip(seen_twice(data, graph=False), seen_twice(data, graph=True), strict=True)
    assert max(largest_gap(plain, recorded) for plain, recorded in both) < 2e-5


class Listed(LiveTeacher):
    """It keeps its network, whose statistics move, in a list."""

    def __init__(self, live: LiveTeacher) -> None:
        self.__dict__ |= {name: value for name, value in vars(live).items() if name not in ("network", "running")}
        self.held = [live.network.train()]

    network = property(lambda self: self.held[0])
    running = property(lambda self: self.held[0])


def test_a_dry_run_puts_the_teachers_statistics_back(data: Path) -> None:
    """Wherever a source keeps its networks: it names them itself (TeacherSource.modules)."""
    moved = []
    for recorder in (None, Tracer(lambda graph: graph)):
        side = Side(words_for(data, "kd"), None)
        parts = replace(side.parts, teacher=Listed(side.parts.teacher))
        step = TrainStep(parts, side.train_step.config, side.train_step.world, recorder, print)
        step.train_mode()
        step.run(side.batches_of(0)[0], StepAt(number=0, progress=0.0, rate=0.05, rows=12))
        moved.append({name: buffer.clone() for name, buffer in parts.teacher.network.named_buffers()})
    assert largest_gap(*moved) < 1e-6 and moved[1]["bn1.num_batches_tracked"] == 1


def test_a_batch_is_a_pytree_of_its_tensors() -> None:
    index_B, image_BCHW = torch.arange(2), torch.rand(2, 3, 4, 4)
    mix = Mix(torch.ones(()), index_B, index_B)
    info = BatchInfo(view=3, share=0.5, stream="a b", host_index_B=index_B)
    batch = Batch(
        image_BCHW=image_BCHW,
        label_B=index_B,
        index_B=index_B,
        streams={"a b": image_BCHW},
        mixes={"a b": mix},
        info=info,
    )
    leaves, spec = pytree.tree_flatten(StepInputs(batch, {"a b": ModelOutput(image_BCHW, image_BCHW)}))
    assert len(leaves) == 9 and all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = pytree.tree_unflatten(leaves, spec).batch
    assert again.info == BatchInfo(share=0.5, stream="a b") and again.streams["a b"] is image_BCHW
    other = replace(batch, info=info._replace(view=4))
    assert pytree.tree_flatten(StepInputs(other, {"a b": ModelOutput(image_BCHW, image_BCHW)}))[1] == spec
