"""SimKD from outside: its projector and the reused classifier travel with the student."""

import json
from pathlib import Path

import cli
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from pipeline import evaluate, export, train

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "x"


def call(module: object, words: list[str], capture: Capture) -> str:
    code, out, err = cli.call(module, words, capture)  # type: ignore[arg-type]
    assert code == 0, out + err
    return out


def test_train_evaluate_export(run: Path, capsys: Capture) -> None:
    words = ["dataset=synthetic", "pair=resnet20-resnet8", "method=simkd", "teacher.checkpoint=none", "optim.epochs=1"]
    words += ["run.limit_steps=6", f"run.dir={run.parent}", "run.name=x", "log.tensorboard=false", "runtime.device=cpu"]
    call(train, words, capsys)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters_added"] > 10_000 and summary["parameters_kept"] > summary["parameters_added"]
    for checkpoint in (run, run / "checkpoints" / "best.pt"):
        said = call(evaluate, ["dataset=synthetic", f"checkpoint={checkpoint}", "runtime.device=cpu"], capsys)
        assert json.loads(said.splitlines()[-1])["top1"] == summary["top1_last"]

    out = run / "served.onnx"
    facts = json.loads(call(export, [f"checkpoint={run}", "to=onnx", f"out={out}"], capsys).splitlines()[-1])
    assert facts["parameters"] > summary["parameters"] + summary["parameters_added"]
    session = onnxruntime.InferenceSession(str(out))
    image = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    alone = call(export, [f"checkpoint={run}", "to=torchscript", f"out={run / 'served.pt'}"], capsys)
    assert alone
    wanted = torch.jit.load(str(run / "served.pt"))(image)
    np.testing.assert_allclose(np.asarray(logits), wanted.numpy(), rtol=0, atol=1e-5)


def test_averaged_weights_predict(tmp_path: Path, capsys: Capture) -> None:
    """Projector and student as averages, in evaluation, in the file, and after a resume."""
    words = ["dataset=synthetic", "pair=resnet20-resnet8", "method=simkd", "teacher.checkpoint=none", "optim.epochs=1"]
    words += ["optim.ema_decay=0.9", f"run.dir={tmp_path}", "log.tensorboard=false", "runtime.device=cpu"]
    call(train, [*words, "run.name=whole", "run.limit_steps=6"], capsys)
    call(train, [*words, "run.name=cut", "run.limit_steps=3"], capsys)
    call(train, [*words, "run.name=cut", "run.limit_steps=6"], capsys)
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
    last = torch.load(tmp_path / "whole" / "checkpoints" / "last.pt", weights_only=True)
    served = load_file(tmp_path / "whole" / "student.safetensors")
    average = last["updater"]["predictor_ema"]["projector.0.weight"]
    assert torch.equal(served["predictor.projector.0.weight"], average)
    assert not torch.equal(average, last["distiller"]["projector.0.weight"])
    said = call(evaluate, [f"checkpoint={tmp_path / 'whole'}", "runtime.device=cpu"], capsys)
    record = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert json.loads(said.splitlines()[-1])["loss"] == pytest.approx(record["test_loss"], rel=1e-6)
