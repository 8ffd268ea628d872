"""The step under torch.compile: one graph, the numbers of the eager one, no recompilation while values change."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import mini_cifar
import pytest
import ranks
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.contracts import Batch, BatchInfo, ModelOutput
from pipeline.distillers import DISTILLERS
from pipeline.engine.forward import DistillationStep, StepOutput, Taught
from pipeline.models import MODELS


def step_of(method: str) -> DistillationStep:
    torch.manual_seed(0)
    kind = DISTILLERS.get(method)
    return DistillationStep(MODELS.get("resnet8")(num_classes=10), kind(kind.Config()), contextlib.nullcontext)


def arguments(seed: int, rows: int = 6) -> tuple[torch.Tensor, Taught]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(rows, 3, 16, 16, generator=generator)
    teacher = torch.randn(rows, 10, generator=generator)
    label = torch.arange(rows) % 10
    info = BatchInfo(view=seed, share=1 / (seed + 1))  # numbers of the host that change
    batch = Batch(image_BCHW=image, label_B=label, index_B=label + 100 * seed, info=info)
    return torch.tensor(float(seed)), Taught(batch, ModelOutput(teacher, teacher))


@pytest.mark.parametrize("method", ["kd", "vanilla"])
def test_one_graph_same_numbers(method: str) -> None:
    eager, compiled = step_of(method), step_of(method)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    run: Callable[..., StepOutput] = torch.compile(compiled, fullgraph=True, backend=counter)
    for seed in range(3):
        found, wanted = run(*arguments(seed)), eager(*arguments(seed))
        assert torch.allclose(found.loss, wanted.loss, rtol=1e-6) and found.terms.keys() == wanted.terms.keys()
        found.loss.backward()
        wanted.loss.backward()
    for a, b in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert a.grad is not None and torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    assert counter.frame_count == 1


def test_half_precision_losses_are_float32() -> None:
    step = step_of("kd")
    step.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    result = step(*arguments(0))
    assert result.loss.dtype == torch.float32 and result.logits_BK.dtype == torch.float32


@pytest.mark.parametrize(("rows", "parts"), [(16, 1), (16, 4), (7, 3), (2, 5)])
def test_slices_add_up(rows: int, parts: int) -> None:
    index = torch.arange(rows)
    info = BatchInfo(view=3, share=1.25, host_index_B=index)
    batch = Batch(image_BCHW=torch.zeros(rows, 3, 4, 4), label_B=index, index_B=index, info=info)
    slices = batch.split(parts)
    assert torch.equal(torch.cat([s.index_B for s in slices]), index)
    assert sum(s.info.share for s in slices) == pytest.approx(1.25) and all(s.info.view == 3 for s in slices)
    assert all(s.info.host_index_B is not None and torch.equal(s.info.host_index_B, s.index_B) for s in slices)
    assert len(slices) == min(parts, rows)


@pytest.mark.slow
def test_training_compiled_by_inductor(tmp_path: Path) -> None:
    """Two steps: inductor takes about a minute for each of the two graphs, teacher and step, on one core."""
    data = mini_cifar.write(tmp_path / "data")
    words = [
        "dataset=cifar100", f"data.root={data}", "pair=resnet20-resnet8", "method=kd", "teacher.checkpoint=none",
        "data.batch_size=32", "run.limit_steps=2", f"run.dir={tmp_path}", "runtime.device=cpu", "log.tensorboard=false",
    ]  # fmt: skip
    for name, mode in (("eager", "off"), ("compiled", "default")):
        line = [*words, f"run.name={name}", f"runtime.compile={mode}"]
        code, text = ranks.run_train(line, 1, tmp_path / name, seconds=500)
        assert code == [0], text
    eager, compiled = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        for name in ("eager", "compiled")
    )
    assert eager.keys() == compiled.keys()
    for key in eager:
        assert torch.allclose(eager[key].float(), compiled[key].float(), rtol=1e-3, atol=1e-4), key
