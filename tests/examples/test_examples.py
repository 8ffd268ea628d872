"""The scripts of examples/ run, and compute what the pipeline computes."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import cli
import mini_cifar
import pytest
import torch

from pipeline.config import OptimConfig
from pipeline.distillers.kd import kd_loss
from pipeline.engine.schedule import learning_rate


def example(name: str) -> ModuleType:
    """The module of examples/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, cli.ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MINIMAL = example("minimal_kd")


def test_minimal_kd_trains_three_networks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8), torch.arange(64) % 20
    monkeypatch.setattr(MINIMAL, "load", lambda split: few)
    monkeypatch.setattr(MINIMAL, "DEVICE", "cpu")
    monkeypatch.setattr("sys.argv", ["minimal_kd.py", "--epochs", "1", "1"])
    MINIMAL.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "teacher resnet14",
        "student alone resnet8",
        "student distilled resnet8",
    ]
    assert all(0 <= float(line.rpartition(" ")[2]) <= 100 for line in lines)


def test_minimal_kd_computes_what_the_pipeline_computes() -> None:
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(MINIMAL.kd_loss(student, teacher), kd_loss(student, teacher, MINIMAL.T))
    optim = OptimConfig(lr=MINIMAL.LR, epochs=9, schedule="cosine", warmup_epochs=1)
    for step in range(10, 90):  # its rise begins a step later, at zero
        assert MINIMAL.rate(step / 10, 9) == pytest.approx(learning_rate(optim, step, 10), rel=1e-12)
    pixels = torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(MINIMAL.normalised(pixels), (pixels / 255 - 0.5) / 0.25)


def test_minimal_kd_shifts_and_mirrors() -> None:
    """Every window of the border occurs, in both directions, and nothing else."""
    pixels = torch.randint(1, 256, (1, 3, 8, 8), dtype=torch.uint8)
    padded = torch.nn.functional.pad(pixels, [MINIMAL.PADDING] * 4)
    shifts = range(2 * MINIMAL.PADDING + 1)
    windows = [padded[0, :, top : top + 8, left : left + 8] for top in shifts for left in shifts]
    known = {w.contiguous().numpy().tobytes() for v in windows for w in (v, v.flip(2))}
    seen = {image.numpy().tobytes() for image in MINIMAL.augmented(pixels.expand(2000, 3, 8, 8))}
    assert seen == known and len(known) == 50


def test_python_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = example("python_api")
    mini_cifar.write(tmp_path / "data", train=16, test=8)
    words = [
        *(str(tmp_path / "out"), "dataset=cifar100", f"data.root={tmp_path / 'data'}", "optim.epochs=1"),
        *("data.batch_size=8", "runtime.device=cpu", "log.tensorboard=false"),
    ]
    module.main(words)
    out = capsys.readouterr().out
    assert "distilled student" in out and out.count("step ") == 2  # by hand: an epoch has two steps
    assert re.search(r"^kd resnet14-resnet8: top-1 \d+\.\d\d, seeds \[0\]$", out, re.MULTILINE)
    for name in ("teacher", "student"):
        assert (tmp_path / "out" / name / "student.safetensors").is_file()
    module.main(words)
    assert capsys.readouterr().out.count("already complete") == 2
