"""A run folder that was damaged, edited or made by hand goes on as if nothing had been, or is refused in one line."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import short_runs
import torch
from short_runs import Capture, after_step, copied, finish, forge, make_data, refused, stop
from test_resume import assert_same_run, records

from pipeline.run_folder import earlier_defaults, same_numbers
from pipeline.run_folder.checkpoint_file import unseal

Change = Callable[[Path], object]


def some(cases: Iterable[Any]) -> list[Any]:
    """Every third case; the others are slow."""
    return [pytest.param(case, marks=[pytest.mark.slow] if n % 3 else []) for n, case in enumerate(cases)]


NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `whole`, a finished run, and `half`, which was stopped in its third epoch."""
    root = make_data(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        short_runs.train.main(short_runs.words(root, "whole"))
    stop(root, "half", after_step(5), "run.checkpoint_steps=1")
    return root


@pytest.fixture
def half(root: Path) -> Path:
    return copied(root / "half", f"half-{next(NUMBERS)}")


def assert_as_unbroken(folder: Path) -> None:
    whole = folder.with_name("whole")
    assert_same_run(whole, folder)
    a, b = (json.loads((run / "summary.json").read_text()) for run in (whole, folder))
    same = ("top1_last", "top1_best", "best_epoch", "steps", "epochs", "parameters")
    assert [a[key] for key in same] == [b[key] for key in same]
    assert unseal(folder / "checkpoints" / "best.pt")["epoch"] == b["best_epoch"]


def edited(text: str) -> Change:
    return lambda path: path.write_text(text + path.read_text())


LOST: dict[str, Change] = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "the first line gone": lambda path: path.write_text(path.read_text().split("\n", 1)[1]),
    "a line of a number": edited("3\n"),
    "an empty object": edited("{}\n"),
    "an epoch that is text": edited('{"epoch": "1"}\n'),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\n" + path.read_bytes()),
    "deep": edited("[" * 100_000 + "\n"),
    "a huge number": edited('{"epoch": ' + "9" * 5000 + "}\n"),
    "a line twice": lambda path: path.write_text(path.read_text() * 2),
}


@pytest.mark.parametrize("how", some(LOST))
def test_lines_that_are_lost_or_odd_are_missed(how: str, half: Path, capsys: Capture) -> None:
    LOST[how](half / "metrics.jsonl")
    damaged = (half / "metrics.jsonl").read_bytes() if (half / "metrics.jsonl").exists() else b""
    out = finish(half.parent, half.name, capsys)
    assert_as_unbroken(half)
    kept = half / "metrics.jsonl.old-1"
    if kept.exists():  # nothing that somebody wrote is gone
        assert kept.read_bytes() == damaged and f"kept as {kept}" in out
    else:
        assert how in ("removed", "emptied", "zeros", "cut", "the first line gone", "a line twice")
        assert "written again from the checkpoint" in out or how == "a line twice"


def test_an_edited_figure_is_kept_beside(half: Path, capsys: Capture) -> None:
    lines = [row | {"test_top1": 99.0} for row in records(half)]
    (half / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    finish(half.parent, half.name, capsys)
    assert_as_unbroken(half)
    assert "99.0" in (half / "metrics.jsonl.old-1").read_text()


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    """Takes keys out of a table."""

    def change(state: dict[str, Any]) -> None:
        for key in keys:
            del state[key]

    return change


@pytest.mark.parametrize("lines", [0, 1])
def test_checkpoints_of_earlier_versions_leave_the_records_to_the_file(lines: int, half: Path, capsys: Capture) -> None:
    forge(half / "checkpoints" / "last.pt", without("records", "config"))
    kept = (half / "metrics.jsonl").read_text()
    (half / "metrics.jsonl").write_text("".join(kept.splitlines(keepends=True)[1 : 1 + lines]))
    assert "metrics.jsonl lacks epoch 1" in refused(half.parent, half.name, capsys)
    (half / "metrics.jsonl").write_text(kept)
    finish(half.parent, half.name, capsys)
    assert_as_unbroken(half)


KEPT = {
    "adamw": ("optim.name=adamw", "optim.lr=0.001"),
    "dot": ("optim.name=dot", "method=kd", "teacher.model=resnet8", "teacher.checkpoint=none"),
    "plain": ("optim.momentum=0", "model=resnet14"),
    "averaged": ("optim.ema_decay=0.9", "optim.decay_norm_bias=false"),
    "bf16": ("runtime.amp=bf16", "optim.accumulate=2"),
    "simkd": ("method=simkd", "teacher.model=resnet8", "teacher.checkpoint=none", "optim.name=adamw"),
    "ctkd": ("method=ctkd", "teacher.model=resnet8", "teacher.checkpoint=none"),
    "crd": ("method=crd", "method_args.K=4", "teacher.model=resnet8", "teacher.checkpoint=none"),
}


@pytest.mark.parametrize("name", ["adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in KEPT if n != "adamw")])
def test_what_this_program_writes_fits(name: str, root: Path, capsys: Capture) -> None:
    more = (*KEPT[name], "run.limit_steps=4")
    finish(root, f"{name}-whole", capsys, *more)
    broken = stop(root, name, after_step(3), *more, "run.checkpoint_steps=1")
    finish(root, name, capsys, *more)
    assert_same_run(root / f"{name}-whole", broken)


def put(*keys: Any, value: object) -> Callable[[dict[str, Any]], None]:
    """Sets state[keys[0]][keys[1]]... to a value."""

    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


WEIGHT = ("model", "conv1.weight")
FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda state: [1],
    "empty": lambda state: state.clear(),
    **{f"no {key}": without(key) for key in ("model", "ranks", "position", "updater")},
    **{f"{key} is text": put(key, value="x") for key in ("model", "distiller", "updater", "ranks", "clock", "resumed")},
    "a weight gone": lambda state: without("conv1.weight")(state["model"]),
    "a weight too many": put("model", "other", value=torch.ones(1)),
    "a weight of another shape": put(*WEIGHT, value=torch.ones(1)),
    "a weight of another type": put(*WEIGHT, value=torch.ones(16, 3, 3, 3, dtype=torch.float64)),
    "a weight that is text": put(*WEIGHT, value="x"),
    "a sparse weight": lambda state: put(*WEIGHT, value=state["model"]["conv1.weight"].to_sparse())(state),
    "done=10^9": put("position", "done", value=10**9),
    "done=-1": put("position", "done", value=-1),
    "done is text": put("position", "done", value="5"),
    "closed ahead": put("position", "closed", value=3),
    "closed behind": put("position", "closed", value=0),
    "other steps": put("position", "steps_per_epoch", value=3),
    "records short": put("records", value=[]),
    "records odd": put("records", 0, "epoch", value="1"),
    "another rate": put("config", "optim.lr", value=7.0),
    "wall_seconds is NaN": put("wall_seconds", value=float("nan")),
    "a clock of text": put("clock", "images", value="x"),
    "a random state of zeros": put("ranks", 0, "rng", value=torch.zeros(7, dtype=torch.uint8)),
    "sums of another length": put("ranks", 0, "meters", "total", value=torch.ones(17, dtype=torch.float64)),
    "a buffer of another shape": put("ranks", 0, "buffers", "student.bn1.running_mean", value=torch.ones(3)),
    "no ranks": put("ranks", value=[]),
    "momentum of another shape": put("updater", "optimizer", "state", 0, "momentum_buffer", value=torch.ones(7)),
    "momentum that is text": put("updater", "optimizer", "param_groups", 0, "momentum", value="x"),
    "parameters of another optimiser": put("updater", "optimizer", "param_groups", 0, "params", value=[1]),
    "a scaler": put("updater", "scaler", value={"scale": 1.0}),
    "a later format": put("format", value=2),
    "a format of numbers": put("format", value=torch.ones(2)),
    "steps of numbers": put("position", "steps_per_epoch", value=torch.ones(2)),
    "keys of numbers": put("config", "optim.lr", value=[torch.ones(2)]),
    "parameters of numbers": put("updater", "optimizer", "param_groups", 0, "params", value=[torch.ones(2)]),
}


@pytest.mark.parametrize("how", some(FORGED))
def test_checkpoints_made_by_hand_are_refused(how: str, half: Path, capsys: Capture) -> None:
    forge(half / "checkpoints" / "last.pt", FORGED[how])
    before = {
        p: p.read_bytes() for p in half.rglob("*") if p.is_file() and p.name not in ("environment.json", "config.yaml")
    }
    err = refused(half.parent, half.name, capsys)
    assert "does not fit this run" in err and "run.resume=never" in err
    assert {p: p.read_bytes() for p in before} == before


SUMMARIES = [b"", b"{", b"[]", b"3", b"\xff\xfe", b"{}", b"[" * 10_000, b'{"top1_last": "x"}']


@pytest.mark.parametrize("content", some(SUMMARIES), ids=lambda c: c[:12].decode(errors="replace") or "empty")
def test_a_damaged_summary_is_written_again(content: bytes, root: Path, capsys: Capture) -> None:
    done = copied(root / "whole", "done")
    try:
        (done / "summary.json").write_bytes(content)
        out = finish(root, "done", capsys)
        assert f"kept as {done / 'summary.json.old-1'}" in out
        assert (done / "summary.json.old-1").read_bytes() == content
        assert_as_unbroken(done)
        assert "already complete" in finish(root, "done", capsys)
    finally:
        shutil.rmtree(done)


def test_a_finished_run_without_its_student_writes_it_again(root: Path, capsys: Capture) -> None:
    done = copied(root / "whole", "lost")
    (done / "student.safetensors").unlink()
    finish(root, "lost", capsys)
    assert_as_unbroken(done)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.jsonl", "summary.json", ".lock"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_no_plain_file_in_a_files_place(name: str, make: Callable[[Path], None], half: Path, capsys: Capture) -> None:
    (half / name).unlink(missing_ok=True)
    make(half / name)
    assert name in refused(half.parent, half.name, capsys)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_folder_in_a_checkpoints_place(name: str, half: Path, capsys: Capture) -> None:
    (half / "checkpoints" / name).unlink()
    (half / "checkpoints" / name).mkdir()
    assert f"{name} is no plain file" in refused(half.parent, half.name, capsys)


def test_the_configuration_is_gone(half: Path, capsys: Capture) -> None:
    """The checkpoint knows it, too."""
    (half / "config.yaml").unlink()
    assert "student.model" in refused(half.parent, half.name, capsys, "model=resnet14")
    assert "optim.lr 0.05 there, 0.5 here" in refused(half.parent, half.name, capsys, "optim.lr=0.5")
    finish(half.parent, half.name, capsys)
    assert_as_unbroken(half)


def drop(folder: Path, line: str) -> None:
    text = (folder / "config.yaml").read_text()
    assert text.count(line) == 1
    (folder / "config.yaml").write_text(text.replace(line, ""))


def test_the_configuration_of_an_earlier_version_is_gone(half: Path, capsys: Capture) -> None:
    (half / "config.yaml").unlink()
    forge(half / "checkpoints" / "last.pt", without("config"))
    assert "does not fit this run (model lacks" in refused(half.parent, half.name, capsys, "model=resnet14")


def test_a_key_that_an_earlier_version_did_not_know(
    half: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as its default, or as what earlier.EARLIER says; config.yaml records it."""
    monkeypatch.setitem(earlier_defaults.EARLIER, "optim.clip_norm", 2.0)
    drop(half, "  clip_norm: 0.0\n")
    forge(half / "checkpoints" / "last.pt", without("config"))
    err = refused(half.parent, half.name, capsys)
    assert "optim.clip_norm 2.0 there, 0.0 here (before there was the key; give optim.clip_norm=2.0 to go on)" in err
    monkeypatch.delitem(earlier_defaults.EARLIER, "optim.clip_norm")
    finish(half.parent, half.name, capsys)
    assert_as_unbroken(half)
    assert "clip_norm: 0.0" in (half / "config.yaml").read_text()


def test_method_arguments_that_are_not_given_any_more_are_missed() -> None:
    here = short_runs.train.TrainConfig(dataset="synthetic", method_args={"T": 4.0})
    found = same_numbers.differences({"dataset": "synthetic", "method_args.T": 4.0, "method_args.x": 1}, here)
    assert "method_args.x 1 there, None here" in found and not any("method_args.T" in text for text in found)
