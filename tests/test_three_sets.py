"""One command line for CIFAR-100, Tiny-ImageNet and ImageNet: only name and place of the data differ."""

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import cli
import jpeg_files
import mini_cifar
import pytest
from safetensors.torch import load_file

from launch import status, submit

SETS = {"cifar100": 32, "tiny_imagenet": 64, "imagenet": 224}  # pixels of a side, by default
METHODS = ("kd", "dkd", "simkd")
CLASSES = 3


def tiny_imagenet(root: Path) -> Path:
    """The published layout: val/ is flat, with its annotations."""
    folder, annotations = root / "tiny-imagenet-200", []
    for label in range(CLASSES):
        wnid = f"n{label + 1:08d}"
        for k in range(4):
            image = jpeg_files.jpeg(10 * label + k, 64, 64)
            jpeg_files.write(folder / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", image)
        jpeg_files.write(folder / "val" / "images" / f"val_{label}.JPEG", jpeg_files.jpeg(100 + label, 64, 64))
        annotations.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))
    (folder / "wnids.txt").write_text("".join(f"n{label + 1:08d}\n" for label in range(CLASSES)))
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("sets")
    return {
        "cifar100": mini_cifar.write(top / "cifar", train=12, test=4),
        "tiny_imagenet": tiny_imagenet(top / "tiny"),
        "imagenet": jpeg_files.tree(top / "imagenet", classes=CLASSES, val=1),
    }


@pytest.fixture
def own_signals() -> Iterator[None]:
    """A job of cluster=debug runs in this process, and minds what a scheduler sends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("dataset", SETS)
def test_the_same_words_for_every_set(
    dataset: str, roots: dict[str, Path], tmp_path: Path, own_signals: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in METHODS:
        code, out, err = cli.call(
            submit,
            [
                "cluster=debug", f"dataset={dataset}", f"data.root={roots[dataset]}", "pair=resnet18-mobilenetv2",
                f"method={method}", "teacher.checkpoint=none", "data.batch_size=4", "data.workers=0",
                "run.limit_steps=2", "run.log_every=1", f"run.dir={tmp_path}", "runtime.device=cpu",
                "log.tensorboard=false",
            ],
            capsys,
        )  # fmt: skip
        assert code == 0, out + err
    runs = {path.parent.name: path.parent for path in tmp_path.rglob("job-1")}
    folders = [path.parent for path in sorted(tmp_path.rglob("summary.json"))]
    assert len(folders) == len(METHODS) and set(runs) == {"seed0"}
    for folder in folders:
        check(folder, dataset)
    code, out, err = cli.call(status, [str(tmp_path), "format=json"], capsys)
    assert code == 0 and json.loads(out)["total"] == {"runs": 3, "done": 3}, out + err


def check(folder: Path, dataset: str) -> None:
    """All files of a run, finite losses, and the data set's own size of images and classes."""
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["dataset"], summary["steps"], summary["epochs"]) == (dataset, 2, 1)
    assert 0 <= summary["top1_last"] == summary["top1_best"] <= 100
    [record] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["train_loss"], record["test_loss"], *record["terms"].values()]
    assert record["terms"] and all(math.isfinite(value) for value in losses)
    assert f"image_size: {SETS[dataset]}\n" in (folder / "config.yaml").read_text()
    assert (folder / "checkpoints" / "last.pt").is_file() and (folder / "environment.json").is_file()
    weights = load_file(folder / "student.safetensors")
    classes = 100 if dataset == "cifar100" else CLASSES
    assert classes in {value.shape[0] for value in weights.values() if value.ndim >= 2}, list(weights)
