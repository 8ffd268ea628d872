"""pipeline/export.py from outside: every format read back by its own reader, and the card that goes with it."""

import json
from pathlib import Path

import cli
import numpy as np
import onnxruntime
import pytest
import torch
from mini_cifar import write
from safetensors.torch import load_file

from pipeline import evaluate, export, train
from pipeline.models.blocks import deploy
from pipeline.models.build import build
from pipeline.weights import read_state

Capture = pytest.CaptureFixture[str]
CLASSES = 7


def trained_like(name: str, **options: object) -> torch.nn.Module:
    """A network whose BN statistics and weights are no longer the first ones."""
    torch.manual_seed(0)
    network = build(name, num_classes=CLASSES, **options)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.ndim == 1:
                tensor.add_(0.2 * torch.randn_like(tensor))
    return network.eval()


def call(words: list[str], capture: Capture) -> dict[str, object]:
    code, out, err = cli.call(export, words, capture)
    assert code == 0, err
    last: dict[str, object] = json.loads(out.splitlines()[-1])
    return last


def image(rows: int, side: int = 32) -> torch.Tensor:
    return torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def represnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """(checkpoint in training form, the network)."""
    network = trained_like("represnet20")
    path = tmp_path_factory.mktemp("weights") / "represnet20.pth"
    torch.save({"model": network.state_dict(), "best_acc": 50.0}, path)
    return path, network


@pytest.mark.parametrize("to", ("safetensors", "state_dict", "torchscript", "onnx"))
def test_formats(to: str, represnet: tuple[Path, torch.nn.Module], tmp_path: Path, capsys: Capture) -> None:
    checkpoint, network = represnet
    out = tmp_path / "served.bin"
    facts = call([f"checkpoint={checkpoint}", "model=represnet20", f"to={to}", f"out={out}"], capsys)
    with torch.no_grad():
        wanted = network(image(5)).logits_BK
    if to == "onnx":
        session = onnxruntime.InferenceSession(str(out))
        assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("image", [3, 32, 32])]
        got = torch.from_numpy(np.asarray(session.run(["logits"], {"image": image(5).numpy()})[0]))
    elif to == "torchscript":
        got = torch.jit.load(str(out))(image(5))
    else:
        state = load_file(out) if to == "safetensors" else torch.load(out, weights_only=True)
        served = deploy(build("represnet20", num_classes=CLASSES))
        served.load_state_dict(state)
        with torch.no_grad():
            got = served.eval()(image(5)).logits_BK
        assert any("tdb_reparam" in key for key in state) and not any("duplicate" in key for key in state)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))
    assert facts["parameters"] == 277636 - (100 - CLASSES) * 65
    assert sorted(p.name for p in tmp_path.iterdir()) == ["served.bin", "served.bin.md"]


def test_training_form_can_be_kept(represnet: tuple[Path, torch.nn.Module], tmp_path: Path, capsys: Capture) -> None:
    checkpoint, network = represnet
    out = tmp_path / "kept.safetensors"
    call([f"checkpoint={checkpoint}", "model=resnet20", "student.block=ambb", "deploy=false", f"out={out}"], capsys)
    state = load_file(out)
    assert set(state) == set(network.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_deployed_file_is_recognised(
    represnet: tuple[Path, torch.nn.Module], tmp_path: Path, capsys: Capture
) -> None:
    checkpoint, _ = represnet
    once, twice = tmp_path / "once.pth", tmp_path / "twice.pth"
    call([f"checkpoint={checkpoint}", "model=represnet20", "to=state_dict", f"out={once}"], capsys)
    call([f"checkpoint={once}", "model=represnet20", "to=state_dict", f"out={twice}"], capsys)
    first, second = read_state(once), read_state(twice)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_summary(capsys: Capture) -> None:
    facts = call(["to=summary", "model=represnet20", "dataset=cifar100"], capsys)
    assert facts["parameters"] == 997684 and facts["parameters_deployed"] == 277636
    plain = call(["to=summary", "model=resnet20", "dataset=cifar100"], capsys)
    assert plain["parameters"] == 278324
    # 40.55 M multiply-adds, counted by hand from the layers' shapes; two operations each.
    blocks = 6 * 32**2 * 9 * 16 * 16 + 16**2 * 9 * (16 * 32 + 5 * 32 * 32) + 8**2 * 9 * (32 * 64 + 5 * 64 * 64)
    projections = 16**2 * 16 * 32 + 8**2 * 32 * 64
    assert plain["flops"] == 2 * (32**2 * 9 * 3 * 16 + blocks + projections + 64 * 100)
    assert facts["flops_deployed"] == plain["flops"]
    assert plain["stages"] == [[16, 32, 32], [16, 32, 32], [32, 16, 16], [64, 8, 8]]


def test_a_run_folder_says_what_it_is(tmp_path: Path, capsys: Capture) -> None:
    data = write(tmp_path / "data")
    words = ["dataset=cifar100", f"data.root={data}", "model=resnet8", "student.block=ambb", "run.limit_steps=3"]
    words += [f"run.dir={tmp_path}", "run.name=x", "runtime.device=cpu", "log.tensorboard=false", "data.batch_size=16"]
    assert cli.call(train, words, capsys)[0] == 0
    out = tmp_path / "resnet8.onnx"
    facts = call([f"checkpoint={tmp_path / 'x'}", "to=onnx", f"out={out}"], capsys)
    card = (tmp_path / "resnet8.onnx.md").read_text()
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert f"{summary['top1_last']:.2f} %" in card and "0.5071, 0.4867, 0.4408" in card and "vanilla" in card
    assert f"{facts['parameters']:,}" in card and str(facts["sha256"]) in card and "not known; ask" in card

    served = tmp_path / "served.safetensors"
    call([f"checkpoint={tmp_path / 'x' / 'checkpoints' / 'best.pt'}", f"out={served}"], capsys)
    scores = []
    for file in (tmp_path / "x", served):
        more = ["dataset=cifar100", f"data.root={data}", f"checkpoint={file}", "runtime.device=cpu"]
        more += [] if file.is_dir() else ["model=resnet8", "student.block=ambb"]
        code, text, err = cli.call(evaluate, more, capsys)
        assert code == 0, err
        scores.append(json.loads(text.splitlines()[-1]))
    assert scores[0]["correct_top1"] == scores[1]["correct_top1"] and scores[0]["samples"] == scores[1]["samples"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=onnx", "model=resnet8"], "give checkpoint="),
        (["to=onnx", "checkpoint=none"], "give model=NAME"),
        (["to=onx", "model=resnet8", "checkpoint=none"], "to="),
        (["model=resnet8", "checkpoint=none", "out=/nowhere/x.onnx"], "no folder /nowhere"),
        (["model=resnet8", "checkpoint=/nowhere/x.pth"], "/nowhere/x.pth"),
        (["model=resnet8", "checkpoint=none", "student.block=abc"], "unknown block 'abc'"),
        (["model=vgg8", "checkpoint=none", "data.image_size=4"], "cannot take images of 4 x 4 pixels"),
    ],
)
def test_bad_input(words: list[str], message: str, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = cli.call(export, words, capsys)
    assert code == 2 and message in err and "Traceback" not in err
    assert all(line.startswith("error: ") for line in err.splitlines())


def test_a_file_that_computes_something_else_is_not_written(
    represnet: tuple[Path, torch.nn.Module], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = represnet

    def spoiled(network: torch.nn.Module) -> torch.nn.Module:
        deploy(network)
        with torch.no_grad():
            next(iter(network.parameters())).mul_(1.01)
        return network

    monkeypatch.setattr(export, "deploy", spoiled)
    words = [f"checkpoint={checkpoint}", "model=represnet20", f"out={tmp_path / 'x.safetensors'}"]
    code, _, err = cli.call(export, words, capsys)
    assert code == 1 and "would differ from its source" in err
    assert list(tmp_path.iterdir()) == []
