"""The options of the ImageNet recipes together, from JPEGs to a served file."""

import json
from pathlib import Path

import cli
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from pipeline import evaluate, export, train

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of smooth images of unlike sizes: ten to train on, four to test on."""
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 2)):
        for name, red in (("cold", 40), ("warm", 200)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
                pixels[..., 0] = red
                size = (70 + 9 * number, 60 + 11 * number)
                Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(
                    folder / f"{number}.jpg", quality=90
                )
    return root


def words(tree: Path, runs: Path, *more: str) -> list[str]:
    """The ladder's recipe, made small: 32 pixels, then 64; tested at 96."""
    return [
        "dataset=folder", f"data.root={tree}", "recipe=ffcv_16", "teacher.checkpoint=none", "data.batch_size=4",
        "data.workers=0", "data.image_size=64", "data.min_image_size=32", "data.grow_epochs=[1,3]", "optim.lr=0.05",
        "data.eval_image_size=96", "optim.epochs=3", "optim.warmup_epochs=1", "optim.ema_decay=0.5",
        f"run.dir={runs}", "run.log_every=1", "log.tensorboard=false", "runtime.device=cpu", *more,
    ]  # fmt: skip


def call(module: object, given: list[str], capture: Capture) -> str:
    code, out, err = cli.call(module, given, capture)  # type: ignore[arg-type]
    assert code == 0, out + err
    return out


def last_record(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return found


def test_everything_at_once_resumed_in_the_middle(tree: Path, tmp_path: Path, capsys: Capture) -> None:
    pair = ["teacher.model=resnet18", "model=resnet18", "method=kd"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    call(train, words(tree, tmp_path, *pair, "run.name=whole"), capsys)
    call(train, words(tree, tmp_path, *pair, "run.name=cut", "run.limit_steps=4"), capsys)
    call(train, words(tree, tmp_path, *pair, "run.name=cut"), capsys)
    assert (whole / "student.safetensors").read_bytes() == (cut / "student.safetensors").read_bytes()
    rates = [json.loads(line)["lr"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    line = [1e-4 + (1 - 1e-4) * 2 / 3, 1 - 2 / 6, 1 - 5 / 6]  # of the last step of three in each epoch
    assert rates == [pytest.approx(0.05 * share) for share in line]

    given = [f"data.root={tree}", f"checkpoint={whole}", "runtime.device=cpu", "data.workers=0"]
    wanted = last_record(whole)
    for more in ([], ["dataset=folder"]):
        score = json.loads(call(evaluate, [*given, *more], capsys).splitlines()[-1])
        assert score["samples"] == 4 and score["loss"] == pytest.approx(wanted["test_loss"], rel=1e-6)
    other = json.loads(call(evaluate, [*given, "data.eval_flip=false"], capsys).splitlines()[-1])
    assert other["loss"] != score["loss"]

    out = tmp_path / "served.pt"
    call(export, [f"checkpoint={whole}", "to=torchscript", f"out={out}"], capsys)
    card = (tmp_path / "served.pt.md").read_text()
    assert "96 x 96" in card and "image and mirror image" in card


def test_a_method_with_a_predictor(tree: Path, tmp_path: Path, capsys: Capture) -> None:
    """SimKD where the student's map, of 8, 16 and in evaluation 24 pixels, is four times as large as the teacher's."""
    nets = ["networks=cifar", "teacher.model=vgg13", "model=resnet8", "method=simkd"]
    run = tmp_path / "x"
    call(train, words(tree, tmp_path, *nets, "run.name=x"), capsys)
    assert load_file(run / "student.safetensors")["predictor.map_size"].tolist() == [4, 4]
    said = call(evaluate, [f"data.root={tree}", f"checkpoint={run}", "runtime.device=cpu", "data.workers=0"], capsys)
    assert json.loads(said.splitlines()[-1])["loss"] == pytest.approx(last_record(run)["test_loss"], rel=1e-6)
    call(export, [f"checkpoint={run}", "to=safetensors", f"out={tmp_path / 'x.safetensors'}"], capsys)


def test_sizes_that_a_network_cannot_take(tree: Path, tmp_path: Path, capsys: Capture) -> None:
    given = words(tree, tmp_path, "model=torchvision:vit_b_32", "student.args.blurpool=false", "run.name=x")
    code, _, err = cli.call(train, [*given, "data.image_size=224", "data.eval_image_size=224"], capsys)
    assert code == 2 and "cannot take images of 32 x 32 pixels" in err and len(err.splitlines()) == 1
