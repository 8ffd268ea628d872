"""One command, four loaders: the same batches, and losses as close as the pixels are."""

import itertools
import json
import statistics
from pathlib import Path

import cli
import pytest

from data_prep import write_beton
from pipeline import train
from pipeline.datasets.synthetic_jpegs import write_jpeg_tree

STEPS = 6
# Of the ratio of each step's loss to the torch loader's: largest distance of its median from 1, and of any step from
# the median. Pixels differ by 0.02 levels of 255 on average (dali, quick) and 1 to 2 (ffcv, raw file: area resize,
# which leaves images sharper: seen 5 % and 3 %). The rate is small, so that the losses tell of the
# pixels and not of six chaotic updates. Windows of another view scatter by 10 %.
BOUNDS = {"resident": (0.0, 0.0), "dali": (0.01, 0.01), "ffcv": (0.1, 0.04)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    write_jpeg_tree(root, classes=4, train_per_class=12, val_per_class=3, workers=1)
    return root


@pytest.fixture(scope="module")
def betons(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Keys that name raw, unresized files of both splits."""
    folder, keys = tmp_path_factory.mktemp("betons"), []
    for split in ("train", "test"):
        out = folder / f"{split}.beton"
        write_beton.main(
            ["dataset=folder", f"data.root={tree}", f"split={split}", f"out={out}", "max_resolution=none",
             "raw_fraction=1", "workers=1"]
        )  # fmt: skip
        keys.append(f"data.ffcv.{split}={out}")
    return keys


def losses(tree: Path, runs: Path, loader: str, capture: pytest.CaptureFixture[str], *more: str) -> list[float]:
    """Loss of each step (a log line a step, its mean since the epoch began taken apart), then the test loss."""
    argv = [
        "dataset=folder", f"data.root={tree}", "teacher.model=resnet34", "student.model=resnet18", "method=kd",
        "teacher.checkpoint=none", "data.batch_size=8", "data.image_size=64", "data.resize=72", "data.workers=1",
        "data.eval_batch_size=5", "optim.epochs=1", "optim.lr=0.0001", f"data.loader={loader}", f"run.dir={runs}",
        f"run.name={loader}", "run.log_every=1", "log.tensorboard=false", "runtime.device=cpu", *more,
    ]  # fmt: skip
    code, out, err = cli.call(train, argv, capture)
    assert code == 0, out + err
    lines = [line for line in out.splitlines() if "epoch 1/1 step" in line]
    assert len(lines) == STEPS
    means = [float(line.split("loss ")[1].split()[0]) for line in lines]
    steps = [means[0], *(b * (n + 1) - a * n for n, (a, b) in enumerate(itertools.pairwise(means), start=1))]
    (record,) = (json.loads(text) for text in (runs / loader / "metrics.jsonl").read_text().splitlines())
    return [*steps, record["test_loss"]]


def against(found: list[float], wanted: list[float]) -> tuple[float, float]:
    """(median ratio of the steps' losses, largest distance of one from it)."""
    ratios = [a / b for a, b in zip(found[:STEPS], wanted[:STEPS], strict=True)]
    level = statistics.median(ratios)
    return level, max(abs(ratio - level) for ratio in ratios)


@pytest.mark.parametrize("loader", BOUNDS)
def test_losses_agree_with_the_torch_loaders(
    loader: str, tree: Path, betons: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = losses(tree, tmp_path, "torch", capsys)
    found = losses(tree, tmp_path, loader, capsys, *betons)
    level, scatter = against(found, wanted)
    assert abs(found[-1] / wanted[-1] - 1) <= BOUNDS[loader][0]
    assert abs(level - 1) <= BOUNDS[loader][0] and scatter <= BOUNDS[loader][1], (level, scatter)
    other = losses(tree, tmp_path / "other", "torch", capsys, "data.seed=1")
    assert against(other, wanted)[1] > 0.08
