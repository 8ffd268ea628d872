"""CUDA graphs of whole steps: the plain step's bits, no host synchronisation, evaluation, pixels in one kernel."""

import json
from pathlib import Path

import pytest
import torch
from recorded_steps import Side, from_the_same_state, words_for

from pipeline import train
from pipeline.config import RuntimeConfig
from pipeline.distillers import DISTILLERS
from pipeline.engine.distributed import parallel
from pipeline.engine.evaluate import Evaluation
from pipeline.engine.graph.backends import Recorder

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
CAPTURED = [
    name for name in DISTILLERS.names() if DISTILLERS.get(name).capturable and not DISTILLERS.get(name).modifier
]
DETERMINISTIC = ["kd", "dkd", "dist", "lskd", "simkd", "vanilla"]


def cuda_recorder() -> Recorder:
    world = parallel.World(rank=0, ranks=1, device=CUDA, side=None)
    made = parallel.recorder_for(RuntimeConfig(compile="graph"), world)
    assert made is not None
    return made


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_a_captured_step_has_the_bits_of_the_plain_one(data: Path, method: str, deterministic: None) -> None:
    gaps, captured = from_the_same_state(words_for(data, method), cuda_recorder(), 50, CUDA)
    assert max(gaps) == 0 and captured.train_step.graph.graphs == 2 and captured.notes == []


@pytest.mark.parametrize("method", CAPTURED)
def test_every_capturable_method(data: Path, method: str) -> None:
    gaps, captured = from_the_same_state(words_for(data, method), cuda_recorder(), 50, CUDA)
    assert max(gaps) < 1e-4 and captured.train_step.graph.graphs == 2 and captured.notes == []


@pytest.mark.parametrize("method", DETERMINISTIC)
@pytest.mark.parametrize("graph", [False, True], ids=["plain", "graph"])
def test_the_host_waits_for_nothing(data: Path, method: str, graph: bool) -> None:
    side = Side(words_for(data, method), cuda_recorder() if graph else None, device=CUDA)
    batches = list(side.batches(30))
    for number, batch in enumerate(batches[:10]):
        side.step(number, batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches[10:], 10):
            side.take(batch, len(batch.label_B), number=number, steps_per_epoch=2, rate=0.05)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_evaluation_in_a_graph(data: Path) -> None:
    side = Side(words_for(data, "kd"), None, device=CUDA)
    world = side.train_step.world
    arguments = (side.parts.student, side.parts.distiller.predict, side.parts.evaluations["test"], world)
    plain = Evaluation(*arguments, side.parts.autocast)
    captured = Evaluation(*arguments, side.parts.autocast, recorder=cuda_recorder())
    found = [captured() for _ in range(6)]
    assert all(score == plain() for score in found)


def test_pixels_of_a_draft(data: Path) -> None:
    side = Side(words_for(data, "kd"), None, device=CUDA)
    recorder = cuda_recorder()
    whole = side.batches_of(0)
    side.parts.train.drafts = True
    for draft, batch in zip(side.batches_of(0), whole, strict=True):
        assert torch.equal(draft.finished(recorder.fuse).image_BCHW, batch.image_BCHW)


def test_a_training_in_a_graph(data: Path, tmp_path: Path) -> None:
    base = [*words_for(data, "kd"), "optim.epochs=6", f"run.dir={tmp_path}", "log.tensorboard=false"]
    losses = []
    for name, mode in (("plain", "off"), ("graph", "graph")):
        train.main([*base, f"run.name={name}", f"runtime.compile={mode}", "runtime.device=cuda"])
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train_loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
