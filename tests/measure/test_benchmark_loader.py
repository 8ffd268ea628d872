"""`what=loader` and `what=decode` from the command line."""

import json
from pathlib import Path

import cli
import mini_cifar
import pytest
import small_tree
from small_tree import PADDED, QUICK, check_row, measure

from pipeline import benchmark
from pipeline.measure import candidates, material

KEYS = {"loaders", "yardstick", "decode_limit", "bottleneck", "unavailable", "versions", "machine", "rounds"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tree.write(tmp_path_factory.mktemp("tree"))


def words(tree: Path, *more: str) -> list[str]:
    return ["what=loader", "dataset=folder", f"data.root={tree}", *QUICK, *more]


def test_figures_of_two_loaders(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = words(tree, *PADDED, "loaders=resident,torch", "rounds=2", f"plot={tmp_path / 'a.png'}")
    report, shown = measure(wanted, tmp_path / "a.json", capsys)
    assert set(report) >= KEYS
    assert list(report["loaders"]) == ["resident", "torch"] and report["unavailable"] == {}
    base = report["yardstick"]
    check_row(base, 2)
    for name, row in report["loaders"].items():
        check_row(row, 2)
        assert row["ratio"] == pytest.approx(row["images_per_second"] / base["images_per_second"], rel=1e-2)
        assert row["per_core"] is None or row["per_core"] > 0
        assert name in shown
    limit = report["decode_limit"]
    assert limit["images_per_second"] > 0 and limit["workers"] == 1 and limit["files"] == 18
    assert report["bottleneck"] in shown.replace("\n", " ")
    assert "ImageFolder" in base["name"]
    assert report["versions"]["torch"] and report["machine"]["cores"] >= 1
    assert (report["machine"]["device"], report["machine"]["tf32"]) == ("cpu", "off")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_every_loader_is_measured_or_named(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, shown = measure(words(tree, f"plot={tmp_path / 'a.svg'}"), tmp_path / "a.json", capsys)
    names = list(candidates.candidates())
    assert {*report["loaders"], *report["unavailable"]} == set(names) >= {"resident", "torch", "torch-fast"}
    assert {"resident", "torch", "torch-fast"} <= set(report["loaders"])
    for row in report["loaders"].values():
        check_row(row, 1)
    drawn = (tmp_path / "a.svg").read_text()
    assert all(name in drawn and name in shown for name in names)
    assert "decode limit" in drawn and "yardstick" in drawn


def test_a_missing_package_is_said(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = candidates.Candidate(name="dali", loader="dali", package="no_such_package.at_all")
    monkeypatch.setattr(candidates, "KNOWN", (*candidates.KNOWN[:2], gone))
    report, shown = measure(words(tree, "loaders=torch,dali"), tmp_path / "a.json", capsys)
    assert report["unavailable"] == {"dali": "not installed"}
    assert "dali: not installed" in shown


def test_cifar_and_json_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = mini_cifar.write(tmp_path, train=40)
    given = ["what=loader", "dataset=cifar100", f"data.root={root}", "loaders=resident,torch-fast", "json=-", *QUICK]
    code, out, err = cli.call(benchmark, given, capsys)
    assert code == 0
    report = json.loads(out)
    check_row(report["loaders"]["resident"], 1)
    assert report["unavailable"] == {"torch-fast": "cifar100 is not a set of files"}
    assert report["decode_limit"] is None
    assert "torchvision" in err


def test_sets_in_memory_have_a_yardstick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, _ = measure(["what=loader", "dataset=synthetic", "loaders=resident", *QUICK], tmp_path / "a.json", capsys)
    check_row(report["yardstick"], 1)


def test_photographs_are_made_where_none_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "TREE", {"classes": 2, "train_per_class": 6, "val_per_class": 1})
    report, shown = measure(["what=decode", *QUICK[:3], "data.workers=2"], tmp_path / "a.json", capsys)
    rows = report["decode_limit"]["rows"]
    assert report["decode_limit"]["files"] == 12
    assert {row["processes"] for row in rows.values()} == {1, 2}
    assert {row["decoder"] for row in rows.values()} == {"exact", "fast", "half", "quarter", "pillow"}
    for row in rows.values():
        check_row(row, 1)
        assert row["megabytes_per_second"] > 0 and row["per_core"] > 0
    assert "Decoding" in report["bottleneck"] and "Pillow" in shown


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["plot=a.gif"], "plot=a.gif: the suffix must be one of .png, .svg, .pdf"),
        (["json=nowhere/a.json"], "json=nowhere/a.json: no folder"),
        (["plot=nowhere/a.png"], "plot=nowhere/a.png: no folder"),
        (["json=."], "it is a folder"),
        (["steps=1"], "steps=1"),
        (["rounds=0"], "rounds=0"),
        (["loaders=torch,tourch"], "there is no 'tourch'"),
        (["what=lodaer"], "what="),
    ],
)
def test_bad_words_are_refused_in_one_line(
    tree: Path, capsys: pytest.CaptureFixture[str], given: list[str], reason: str
) -> None:
    code, _, err = cli.call(benchmark, [*words(tree), *given], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err


def test_no_images_and_damaged_images(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = cli.call(benchmark, words(tmp_path / "none"), capsys)
    assert code == 2 and err.count("\n") == 1
    root = small_tree.write(tmp_path / "bad", per_class=3)
    for file in (root / "train" / "ant").iterdir():
        file.write_bytes(file.read_bytes()[:300])
    code, _, err = cli.call(benchmark, [*words(root), "loaders=torch"], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "ant" in err
