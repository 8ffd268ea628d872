"""`what=step`, `train` and `all` from the command line."""

from pathlib import Path
from typing import Any

import cli
import pytest
import small_tree
from small_tree import PADDED, QUICK, TINY_PAIR, check_row, measure

from pipeline import benchmark
from pipeline.measure import contest

PARTS = ["student", "teacher", "bare loop", "training loop"]


def check_step(report: dict[str, Any], names: list[str]) -> None:
    """Every part has its figures, and they agree with each other."""
    step = report["step"]
    assert list(step) == names
    for row in step.values():
        check_row(row, 1)
        speed = row["images_per_second"]
        assert row["ms_per_step"] == pytest.approx(1000 * report["batch_size"] / speed, rel=1e-2)
        assert row["mfu"] == pytest.approx(row["flops_per_image"] * speed / report["peak_flops"], rel=1e-2)
        assert row["ratio"] == pytest.approx(speed / step["bare loop"]["images_per_second"], rel=1e-2)
        assert row["host_reads"] == 0
        traffic = row["bytes_per_step"] / row["ms_per_step"] * 1000
        assert row["copy_share"] == pytest.approx(traffic / report["copy_bandwidth"], rel=1e-2)
        dispatch = row["operations"] * report["operation_seconds"]
        assert row["launch_share"] == pytest.approx(dispatch / row["ms_per_step"] * 1000, rel=1e-2)


def test_all_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_tree.write(tmp_path / "tree")
    words = ["what=all", "dataset=folder", f"data.root={root}", "loaders=resident,torch", *TINY_PAIR, *QUICK, *PADDED]
    report, shown = measure([*words, f"plot={tmp_path / 'a.png'}"], tmp_path / "a.json", capsys)
    check_step(report, PARTS)
    step = report["step"]
    # Backward costs twice the forward, but for the first layer, which needs no gradient of the images.
    assert 2.5 < step["student"]["flops_per_image"] / step["teacher"]["flops_per_image"] < 3
    both = step["student"]["flops_per_image"] + step["teacher"]["flops_per_image"]
    assert step["training loop"]["flops_per_image"] == pytest.approx(both, abs=1)
    assert len(report["decode_limit"]["rows"]) == 5
    assert list(report["train"]) == ["torch", "research code"]
    for row in report["train"].values():
        check_row(row, 1)
    assert 0 <= report["train"]["torch"]["data_wait"] < 1
    assert "oader" in report["bottleneck"] and "same cores" in report["bottleneck"]
    assert sum(part["ms"] for part in report["parts"].values()) > 0
    for title in ("JPEG decoding alone", "Loaders", "The step", "Parts of a step", "limits", "The whole training"):
        assert title in shown
    assert (tmp_path / "a.png").stat().st_size > 20_000


def test_step_without_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["what=step", "dataset=synthetic", "model=resnet8", "method=vanilla", *QUICK]
    report, shown = measure(words, tmp_path / "a.json", capsys)
    check_step(report, ["student", "bare loop", "training loop"])
    assert report["parts"]["teacher"]["ms"] == 0 and report["train"] is not None
    assert "The whole training" not in shown  # not asked for: one of the parts comes of it
    assert report["parameters"] > 70_000
    assert report["loaders"] == {} and report["decode_limit"] is None
    assert "step" in report["bottleneck"]


def test_training_from_a_temporary_beton(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_tree.write(tmp_path / "tree")
    words = ["what=train", "dataset=folder", f"data.root={root}", "data.loader=ffcv", *TINY_PAIR, *QUICK]
    report, _ = measure([*words, "variants=false"], tmp_path / "a.json", capsys)
    check_row(report["train"]["ffcv"], 1)
    assert "waits for data" in report["bottleneck"]
    assert report["parts"] is None and report["variants"] is None


def test_some_rows_in_many_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["what=train", "dataset=synthetic", "model=resnet8", *QUICK, "rounds=3", "rows=with the loader"]
    report, shown = measure(words, tmp_path / "a.json", capsys)
    assert (list(report["step"]), list(report["train"])) == (["bare loop"], ["resident"])
    row = report["train"]["resident"]
    pairs = [a / b for a, b in zip(row["rounds"], report["step"]["bare loop"]["rounds"], strict=True)]
    assert row["paired_ratio"] == pytest.approx(sorted(pairs)[1], rel=1e-2)
    assert row["paired_spread"][0] <= row["paired_ratio"] <= row["paired_spread"][1]
    assert row["core_ratio"] > 0 and "by rounds" in shown


def test_modes_of_compilation_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plain = contest.ready_loop

    def uncompiled(config: Any, *rest: Any) -> Any:  # compilation takes minutes
        asked.append(config.runtime.compile)
        return plain(contest.eager(config), *rest)

    monkeypatch.setattr(contest, "ready_loop", uncompiled)
    monkeypatch.setattr(contest, "built", lambda config, world, make=contest.built: make(contest.eager(config), world))
    words = ["what=step", "dataset=synthetic", *TINY_PAIR, *QUICK, "variants=false", "compiles=off,default"]
    report, _ = measure(words, tmp_path / "a.json", capsys)
    modes = ["training loop, compile=off", "training loop, compile=default"]
    assert list(report["step"]) == [*PARTS, *modes]
    assert asked == ["off", "off", "default"]
    assert "operations" not in report["step"][modes[1]] and report["step"][modes[1]]["mfu"] > 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("compiles=turbo", "there is no mode 'turbo' (known: off, default, max"),
        ("rows=bear loop", "there is no 'bear loop' (known here: bare loop"),
        ("compare=nowhere.json", "compare=nowhere.json: no such file"),
        ("record=nowhere/a.json", "record=nowhere/a.json: no folder"),
    ],
)
def test_bad_words(capsys: pytest.CaptureFixture[str], word: str, reason: str) -> None:
    code, _, err = cli.call(benchmark, ["what=step", "dataset=synthetic", "model=resnet8", *QUICK, word], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err
