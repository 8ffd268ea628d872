"""The command line over run folders: every picture, the report, unfinished runs, bad input."""

import json
import re
import shutil
from pathlib import Path

import pytest
from cli import call
from picture_runs import write

from pipeline import visualize
from pipeline.pictures import PICTURES, page
from pipeline.run_folder.groups import labelled, read_runs

LIGHT = ["images=40", "points=40"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures") / "runs"
    teacher = write(root / "teacher", "method=vanilla", "model=resnet14")
    taught = ["method=kd", "teacher.model=resnet14", f"teacher.checkpoint={teacher}", "model=resnet8"]
    write(root / "kd" / "seed0", *taught)
    write(root / "kd" / "seed1", *taught, "seed=1", epochs=1, finished=False)
    return root


def test_the_report_holds_every_picture_and_needs_no_network(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.html"
    code, out, err = call(visualize, [f"runs={runs}", f"out={file}", "title=<b>&", *LIGHT], capsys)
    assert code == 0, err
    assert "of 3 run(s)" in out
    text = file.read_text()
    assert text.count("data:image/png;base64,") == len(PICTURES.names()) == 6
    assert "Not drawn" not in text
    assert not re.search(r'(src|href)=(?!"data:)|https?:|<script', text)
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text
    assert "1 of 2 epochs" in text and "1 of 2 epochs" in err
    assert "resnet14 &gt; resnet8" in text
    rows = [re.sub("<[^>]*>", " ", line).split() for line in text.splitlines() if line.startswith("<tr>")]
    name = ["kd", "resnet14", "&gt;", "resnet8"]
    assert [*name, "1", "40.00", "40.00", "500"] in rows  # the run that is not finished does not count
    assert [*name, "1", "1", "of", "2", "20.00", "20.00", "400", "kd/seed1"] in rows
    assert str(tmp_path.parent) not in re.sub("<li>.*</li>", "", text)


def seed_of(run: Path, seed: int, best: float) -> None:
    """A further seed of a finished run."""
    other = run.with_name(f"seed{seed}")
    shutil.copytree(run, other)
    (other / "config.yaml").write_text((run / "config.yaml").read_text().replace("seed: 0\n", f"seed: {seed}\n"))
    summary = json.loads((run / "summary.json").read_text()) | {"top1_best": best}
    (other / "summary.json").write_text(json.dumps(summary))


def test_means_over_the_seeds_of_a_group(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "kd" / "seed0", tmp_path / "seed0")
    seed_of(tmp_path / "seed0", 2, best=43.0)
    [group] = labelled(read_runs([str(tmp_path)]))
    [row] = page.results([group]).rows
    assert row[1] == "2" and "41.50 ± 2.12" in row


@pytest.mark.parametrize("name", ["curves", "speed", "agreement", "correlation"])
def test_one_picture_as_a_file_and_again_the_same(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"runs={runs}", f"what={name}", *LIGHT]
    files = [tmp_path / "a.svg", tmp_path / "b.svg"] if name == "curves" else [tmp_path / "a.PNG"]
    for file in files:
        assert call(visualize, [*words, f"out={file}"], capsys)[0] == 0
    first = files[0].read_bytes()
    assert all(file.read_bytes() == first for file in files)
    assert first.startswith(b"<?xml") if name == "curves" else first.startswith(b"\x89PNG")


def test_runs_that_differ_by_seed_are_one_group(runs: Path) -> None:
    groups = labelled(read_runs([str(runs), str(runs / "teacher")]))
    found = {group.label: len(group.runs) for group in groups}
    assert found == {"kd resnet14 > resnet8": 2, "vanilla resnet14": 1}


def test_a_torn_line_and_a_missing_teacher(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "alone"
    shutil.copytree(runs / "kd" / "seed1", copy)
    with (copy / "metrics.jsonl").open("a") as handle:
        handle.write('{"epoch": 2, "lr": 0.')
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(runs / "teacher"), str(tmp_path / "gone")))
    file = tmp_path / "r.html"
    words = [f"runs={copy}", f"out={file}", "what=curves,agreement", *LIGHT]
    assert call(visualize, words, capsys)[0] == 0
    assert file.read_text().count("Not drawn") == 1
    code, _, err = call(visualize, [f"runs={copy}", f"out={tmp_path / 'a.png'}", "what=agreement", *LIGHT], capsys)
    assert code == 2 and "teacher cannot be used" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs=RUNS/nowhere", "out=r.html"], "no such folder"),
        (["runs=EMPTY", "out=r.html"], "no run in it"),
        (["runs=RUNS", "out=r.pdf", "what=curves"], "suffix"),
        (["runs=RUNS", "out=r.png"], "one picture"),
        (["runs=RUNS", "out=r.html", "what=curve"], "curves"),
        (["runs=RUNS", "out=EMPTY/x/r.html"], "no such folder"),
        (["runs=RUNS"], "out= must be given"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("RUNS", str(runs)).replace("EMPTY", str(tmp_path)) for word in words]
    given = [word.replace("out=r.", f"out={tmp_path}/r.") for word in given]
    code, out, err = call(visualize, given, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert not list(tmp_path.iterdir())
