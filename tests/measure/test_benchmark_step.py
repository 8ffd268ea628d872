"""`what=step`, `train` and `all` from the command line."""

from pathlib import Path
from typing import Any

import pytest
import small_tree
from small_tree import PADDED, QUICK, TINY_PAIR, check_row, measure

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
    assert list(report["train"]) == ["torch"]
    check_row(report["train"]["torch"], 1)
    assert 0 <= report["train"]["torch"]["data_wait"] < 1
    assert "oader" in report["bottleneck"] and "same cores" in report["bottleneck"]
    for title in ("JPEG decoding alone", "Loaders", "The step", "The whole training"):
        assert title in shown
    assert (tmp_path / "a.png").stat().st_size > 20_000


def test_step_without_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["what=step", "dataset=synthetic", "model=resnet8", "method=vanilla", *QUICK]
    report, _ = measure(words, tmp_path / "a.json", capsys)
    check_step(report, ["student", "bare loop", "training loop"])
    assert report["loaders"] == {} and report["decode_limit"] is None
    assert "step" in report["bottleneck"]


def test_training_from_a_temporary_beton(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_tree.write(tmp_path / "tree")
    words = ["what=train", "dataset=folder", f"data.root={root}", "data.loader=ffcv", *TINY_PAIR, *QUICK]
    report, _ = measure(words, tmp_path / "a.json", capsys)
    check_row(report["train"]["ffcv"], 1)
    assert "waits for data" in report["bottleneck"]
