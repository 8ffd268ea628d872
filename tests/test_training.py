"""The main job from outside: what a run prints and leaves, and what makes two runs equal."""

import json
import sys
from pathlib import Path
from typing import Any

import cli
import mini_cifar
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import evaluate, train

Capture = pytest.CaptureFixture[str]
SUMMARY = {
    "dataset", "pair", "method", "seed", "epochs", "top1_last", "top5_last", "top1_best", "best_epoch",
    "images_per_second", "wall_seconds", "parameters", "resumed", "graph",
}  # fmt: skip
METRICS = {
    "epoch", "lr", "train_loss", "train_top1", "terms", "test_loss", "test_top1", "test_top5", "images_per_second",
    "data_wait", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


@pytest.fixture
def words(data: Path, tmp_path: Path) -> list[str]:
    """A vanilla run of two epochs of seven steps, the last one short."""
    return [
        "dataset=cifar100", f"data.root={data}", "model=resnet8", f"run.dir={tmp_path}", "data.batch_size=32",
        "optim.epochs=2", "runtime.device=cpu", "log.tensorboard=false",
    ]  # fmt: skip


def run(words: list[str], name: str, capture: Capture, *more: str, expect: int = 0) -> tuple[Path, str]:
    """(folder, everything printed)."""
    code, out, err = cli.call(train, [*words, f"run.name={name}", *more], capture)
    assert code == expect, out + err
    return Path(next(w for w in words if w.startswith("run.dir=")).removeprefix("run.dir=")) / name, out + err


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def score(data: Path, checkpoint: Path, capture: Capture) -> dict[str, Any]:
    words = ["dataset=cifar100", f"data.root={data}", "model=resnet8", f"checkpoint={checkpoint}", "runtime.device=cpu"]
    code, out, err = cli.call(evaluate, words, capture)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_one_run_leaves_everything(data: Path, words: list[str], capsys: Capture) -> None:
    folder, text = run(words, "a", capsys, "log.tensorboard=true", "run.log_every=3", "run.keep_every=1")
    assert "batch 32 over 1 rank(s) = 32 each on cpu, lr 0.05" in text and "epoch 2/2 step 6/7" not in text
    assert "epoch 1/2 step 6/7 loss" in text and "chosen on the test set" in text
    made = summary(folder)
    assert set(made) >= SUMMARY and made["epochs"] == 2 and made["resumed"] == 0 and made["parameters"] == 83892
    lines = records(folder)
    assert [line["epoch"] for line in lines] == [1, 2] and all(set(line) >= METRICS for line in lines)
    assert all(line["train_loss"] == pytest.approx(sum(line["terms"].values())) for line in lines)
    assert lines[1]["train_loss"] < lines[0]["train_loss"]
    assert made["top1_last"] == lines[-1]["test_top1"]
    assert made["top1_best"] == max(line["test_top1"] for line in lines)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [e.step for e in events.Scalars("test_top1")] == [1, 2]
    assert events.Scalars("terms/ce")[1].value == pytest.approx(lines[1]["terms"]["ce"])
    kept = {p.name for p in (folder / "checkpoints").iterdir()}
    assert kept == {"last.pt", "previous.pt", "best.pt", "epoch-0001.pt", "epoch-0002.pt"}
    assert json.loads((folder / "environment.json").read_text())["versions"]["torch"]
    last = score(data, folder, capsys)
    assert list(last) == [
        "dataset", "model", "checkpoint", "samples", "correct_top1", "correct_top5", "top1", "top5", "loss",
    ]  # fmt: skip
    assert last["samples"] == 60 and last["top1"] == made["top1_last"] and last["top5"] == made["top5_last"]
    assert last["loss"] == pytest.approx(lines[-1]["test_loss"])
    assert score(data, folder / "checkpoints" / "best.pt", capsys)["top1"] == made["top1_best"]
    assert score(data, folder / "checkpoints" / "last.pt", capsys)["top1"] == made["top1_last"]


def test_same_words_same_bits_whatever_the_loader(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    first, _ = run(words, "a", capsys)
    again, _ = run([f"config={first}/config.yaml", f"run.dir={tmp_path}"], "b", capsys)
    workers, _ = run(words, "c", capsys, "data.loader=torch", "data.workers=1")
    other, _ = run(words, "d", capsys, "seed=1")
    weights = {p.name: (p / "student.safetensors").read_bytes() for p in (first, again, workers)}
    assert weights["a"] == weights["b"] == weights["c"]
    a, d = load_file(first / "student.safetensors"), load_file(other / "student.safetensors")
    assert not torch.equal(a["conv1.weight"], d["conv1.weight"])
    with safe_open(first / "student.safetensors", "pt") as file:
        assert json.loads(file.metadata()["stillhouse"])["student"] == "resnet8"


def test_distil_from_a_run_folder(words: list[str], capsys: Capture) -> None:
    teacher, _ = run(words, "teacher", capsys)
    kd = [w for w in words if not w.startswith("model=")] + ["method=kd", "teacher.model=resnet8", "model=resnet14"]
    folder, text = run(kd, "kd", capsys, f"teacher.checkpoint={teacher}")
    assert set(records(folder)[0]["terms"]) == {"ce", "kd"} and "warning" not in text
    _, text = run(kd, "untrained", capsys, "teacher.checkpoint=none", "run.limit_steps=1")
    assert "warning: teacher.checkpoint=none, the teacher is untrained" in text


def test_a_limit_cuts_the_epoch_and_a_larger_one_goes_on(words: list[str], capsys: Capture) -> None:
    cut, _ = run(words, "cut", capsys, "run.limit_steps=9")
    made = summary(cut)
    assert made["steps"] == 9 and made["epochs"] == 2 and len(records(cut)) == 2
    assert (cut / "student.safetensors").exists() and (cut / "checkpoints" / "best.pt").exists()
    run(words, "cut", capsys, "run.limit_steps=11")
    whole, _ = run(words, "whole", capsys, "run.limit_steps=11")
    assert (cut / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    assert len(records(cut)) == 2 and records(cut)[1]["test_loss"] == records(whole)[1]["test_loss"]
    assert records(cut)[1]["train_loss"] == records(whole)[1]["train_loss"]
    _, text = run(words, "cut", capsys, "run.limit_steps=11")
    assert "already complete" in text and summary(cut)["resumed"] == 1


def test_seeds_are_summarised(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    code, out, err = cli.call(train, [*words, "seeds=2", "seed=5", "run.limit_steps=3"], capsys)
    assert code == 0, err
    assert "seeds 5, 6: top1 last" in out and "+-" in out
    base = tmp_path / "cifar100" / "vanilla" / "resnet8"
    assert [summary(base / f"seed{k}")["seed"] for k in (5, 6)] == [5, 6]
    assert len(json.loads((base / "seeds.json").read_text())) == 2


def test_held_out_images_choose_the_best(words: list[str], capsys: Capture) -> None:
    folder, text = run(words, "val", capsys, "data.val_split=40", "select_on=val")
    assert "chosen on held-out images" in text and "160 training images" in text
    lines = records(folder)
    best = max(lines, key=lambda r: r["val_top1"])
    assert summary(folder)["top1_best"] == best["test_top1"] and summary(folder)["best_epoch"] == best["epoch"]


def test_non_finite_loss_stops_the_run(words: list[str], capsys: Capture) -> None:
    folder, text = run(words, "bad", capsys, "optim.lr=1e30", "run.log_every=1", "run.checkpoint_steps=1", expect=1)
    assert "NonFiniteLoss: step" in text and "ce=" in text and "samples of the batch:" in text
    assert "Traceback" not in text and not (folder / "summary.json").exists()
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in last["model"].values())


def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(words: list[str], capsys: Capture) -> None:
    cut, _ = run(words, "cut", capsys, "run.limit_steps=4", "run.checkpoint_steps=1")
    file = cut / "checkpoints" / "last.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    _, text = run(words, "cut", capsys, "run.limit_steps=9")
    assert "last.pt is damaged" in text and "the previous one is used" in text and "resumed at step" in text
    whole, _ = run(words, "whole", capsys, "run.limit_steps=9")
    assert (cut / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()


@pytest.mark.parametrize(
    "more",
    [
        ["runtime.amp=bf16"],
        ["optim.name=adamw", "optim.lr=1e-3", "optim.schedule=cosine", "optim.warmup_epochs=1"],
        ["optim.ema_decay=0.9", "optim.accumulate=2", "optim.clip_norm=1", "optim.decay_norm_bias=false"],
        ["optim.schedule=linear", "optim.warmup_epochs=1", "optim.warmup_start=0", "student.args.blurpool=true"],
        ["runtime.channels_last=false", "runtime.deterministic=true", "data.rotation=20", "optim.nesterov=true"],
        ["optim.label_smoothing=0.1", "run.eval_every=2", "data.eval_flip=true", "data.crop=none", "data.flip=false"],
    ],
    ids=lambda more: more[0],
)
def test_options_train(more: list[str], words: list[str], capsys: Capture) -> None:
    folder, _ = run(words, "x", capsys, *more, "optim.epochs=3")
    lines = records(folder)
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    torch.use_deterministic_algorithms(False)


def test_fp16_trains_with_its_scaler(words: list[str], capsys: Capture) -> None:
    folder, _ = run(words, "fp16", capsys, "runtime.amp=fp16", "run.limit_steps=3")  # very slow on a CPU
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert state["updater"]["scaler"]["scale"] > 0
    assert all(torch.isfinite(v).all() for v in state["model"].values())


def test_weights_and_biases_offline(words: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder, _ = run(words, "wb", capsys, "log.wandb=true", "log.wandb_offline=true", "run.limit_steps=1")
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    _, text = run(words, "none", capsys, "log.wandb=true", "run.limit_steps=1", expect=2)
    assert "needs the package wandb: pip install 'stillhouse[wandb]'" in text


def test_evaluation_uses_the_averaged_weights(data: Path, words: list[str], capsys: Capture) -> None:
    folder, _ = run(words, "ema", capsys, "optim.ema_decay=0.99")
    averaged = load_file(folder / "student.safetensors")
    live = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert torch.equal(averaged["fc.weight"], live["updater"]["ema"]["fc.weight"])
    assert not torch.equal(averaged["fc.weight"], live["model"]["fc.weight"])
    assert score(data, folder, capsys)["top1"] == summary(folder)["top1_last"]


def test_dropout_is_the_seeds_too(words: list[str], capsys: Capture) -> None:
    """Whatever the process has drawn before, and another one for another seed."""
    dropping = [w.replace("model=resnet8", "model=imagenet/mobilenetv2") for w in words]
    folders = []
    for name, seed, before in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        torch.manual_seed(before)
        folders.append(run(dropping, name, capsys, f"seed={seed}", "run.limit_steps=3")[0])
    first, again, other = ((folder / "student.safetensors").read_bytes() for folder in folders)
    assert first == again and first != other
