"""Regression files: kept, compared, refused."""

import json
from pathlib import Path
from typing import Any

import cli
import pytest
from small_tree import QUICK

from pipeline import benchmark
from pipeline.measure.regression import change, last_alike, read, subject

WORDS = ["what=step", "dataset=synthetic", "model=resnet8", "variants=false", "rows=student", *QUICK]
FIGURE = {"images_per_second": 10.0, "spread": [9.0, 11.0]}


def call(capture: pytest.CaptureFixture[str], *words: str) -> str:
    code, out, err = cli.call(benchmark, [*WORDS, *words], capture)
    assert code == 0, err
    return out


def test_a_record_and_a_comparison_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cpu.json"
    call(capsys, f"record={path}")
    (record,) = read(path, "record")
    assert set(record["figures"]) == {"step: student", "step: bare loop"}
    assert record["figures"]["step: student"]["spread"][0] > 0
    assert record["versions"]["torch"] and record["hardware"]["cores"] >= 1 and record["rounds"] == 1
    assert "record=" not in record["command"] and "'rows=student'" not in record["command"]
    faster = json.loads(json.dumps(record))
    faster["figures"]["step: student"] |= {"images_per_second": 1e9, "spread": [1e9, 1e9]}
    path.write_text(json.dumps({"records": [record, faster]}))
    shown = call(capsys, f"compare={path}", f"record={path}")
    assert "slower" in shown and "1,000,000,000" in shown
    assert len(read(path, "record")) == 3


def test_nothing_to_compare_with_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    record: dict[str, Any] = {"hardware": {}, "subject": [], "figures": {"step: student": FIGURE}, "date": "2020-01-01"}
    path.write_text(json.dumps({"records": [record]}))
    assert "no record of this hardware" in call(capsys, f"compare={path}")


@pytest.mark.parametrize("content", ["{", "[]", '{"records": [{}]}', '{"records": 3}'])
def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    for word in (f"compare={path}", f"record={path}"):
        code, _, err = cli.call(benchmark, [*WORDS, word], capsys)
        assert (code, err.count("\n")) == (2, 1)
    assert path.read_text() == content


def test_only_ranges_that_do_not_meet_are_a_change() -> None:
    def row(least: float, most: float) -> dict[str, Any]:
        return {"spread": [least, most]}

    assert change(row(90, 110), row(80, 89)) == "slower"
    assert change(row(90, 110), row(111, 120)) == "faster"
    assert change(row(90, 110), row(80, 91)) == ""


def test_subjects_tell_what_and_not_how_long() -> None:
    assert subject(["b=2", "a=/x/y/z", "rounds=3", "json=-", "steps=9"]) == ["a=z", "b=2"]
    old, new = ({"hardware": 1, "subject": ["a"], "n": n} for n in (1, 2))
    other = {"hardware": 1, "subject": ["b"]}
    assert last_alike([old, new, other], {"hardware": 1, "subject": ["a"]}) is new
    assert last_alike([other], {"hardware": 1, "subject": ["a"]}) is None


def test_the_files_of_this_repository_can_be_read() -> None:
    files = sorted((Path(__file__).resolve().parents[2] / "docs" / "benchmarks").glob("*.json"))
    assert files
    for file in files:
        for record in read(file, "compare"):
            assert record["commit"] and record["command"].startswith("python pipeline/benchmark.py")
            assert all(row["rounds"] for row in record["figures"].values())
