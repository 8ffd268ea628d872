"""What table, pictures and status make of the same run folders: one reader, one grouping over seeds, one mean."""

import json
import os
import statistics
from pathlib import Path

import cli
import pytest
from run_folders import make_run

from launch import table
from launch.monitor.progress import read_progress
from launch.tables.report import make_report
from pipeline import visualize
from pipeline.contracts import InputError
from pipeline.pictures import page
from pipeline.run_folder.groups import labelled, read_runs, remarks
from pipeline.run_folder.record import RunRecord, find_runs
from pipeline.run_folder.spread import mean_std, spread_text
from pipeline.utils.untrusted_files import Unreadable

TAUGHT = ("dataset=synthetic", "method=kd", "teacher.model=resnet14", "model=resnet8", "optim.epochs=2")


def taught(folder: Path, seed: int, last: float | None, *words: str) -> Path:
    """A student of a teacher of its own seed, with a record for each of its two epochs."""
    checkpoint = f"teacher.checkpoint={folder.parent / 'teacher' / f'seed{seed}'}"
    run = make_run(folder, *TAUGHT, f"seed={seed}", checkpoint, *words, last=last)
    records = [{"epoch": k, "seconds": 1.0, "images_per_second": 9.0, "test_top1": last} for k in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"epoch": 3, "te')
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, last in ((0, 70.0), (1, 72.0), (2, None)):
        taught(tmp_path / f"seed{seed}", seed, last)
    return tmp_path


def test_the_pictures_average_what_the_table_averages(runs: Path) -> None:
    [row] = make_report([runs]).rows
    [group] = labelled(read_runs([str(runs)]))
    [results] = page.results([group]).rows
    assert row.seeds == group.seeds == [0, 1] and row.last == (71.0, statistics.stdev([70.0, 72.0]))
    assert results[1:3] == ["2", spread_text(row.last)] == ["2", "71.00 ± 1.41"]
    assert [len(run.epochs) for run in group.runs] == [2, 2, 2]  # nothing of the line that was not written to its end


def test_a_seed_counts_once(runs: Path) -> None:
    taught(runs / "twice", 0, 10.0)
    [group] = labelled(read_runs([str(runs)]))
    assert [row[1:3] for row in page.results([group]).rows] == [["2", "71.00 ± 1.41"]]
    [line] = make_report([runs]).lists["Left out"]
    assert line == f"{runs / 'twice'}: same settings and seed as {runs / 'seed0'}, left out"
    assert f"{line} of the means" in remarks(group.runs)


@pytest.mark.parametrize("key", ["optim.epochs", "run.limit_steps"])
def test_a_run_that_is_to_go_on_is_finished_for_nobody(key: str, tmp_path: Path) -> None:
    run = taught(tmp_path / "seed0", 0, 70.0, *(["run.limit_steps=9"] if "steps" in key else []))
    summary = json.loads((run / "summary.json").read_text()) | {"epochs": 1, "steps": 9}
    (run / "summary.json").write_text(json.dumps(summary))
    ended = "steps" in key
    assert RunRecord(run).finished == read_progress(run).finished == ended
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("limit_steps: 9", "limit_steps: 50"))
    assert not RunRecord(run).finished and not read_progress(run).finished
    assert make_report([run]).rows[0].last is None
    assert page.results(labelled(read_runs([str(run)]))).rows[0][1:3] == ["0", "-"]


def test_keys_that_no_run_has_are_refused_by_both(runs: Path) -> None:
    file = runs / "seed0" / "config.yaml"
    file.write_text(file.read_text() + "zz: 1\n")
    for read in (lambda: make_report([runs]), lambda: read_runs([str(runs)])):
        with pytest.raises(InputError, match="unknown key 'zz'") as raised:
            read()
        assert str(file) in str(raised.value)


def test_which_folders_are_runs(runs: Path) -> None:
    taught(runs / "seed1.old-1", 1, 1.0)
    taught(runs / ".hidden" / "seed1", 1, 1.0)
    assert [run.name for run in find_runs(runs)] == ["seed0", "seed1", "seed2"]
    assert find_runs(runs / "seed1.old-1") == [runs / "seed1.old-1"]


def test_mean_and_sample_deviation() -> None:
    assert mean_std([]) is None and mean_std([None]) is None and mean_std([3.0, None]) == (3.0, None)
    assert mean_std([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(1.5275252))
    assert spread_text(mean_std([1.0, 2.0]), sign="+-") == "1.50 +- 0.71"
    assert spread_text(mean_std([1234.0]), ",.0f") == "1,234" and spread_text(None, nothing="-") == "-"


def test_a_summary_of_null_is_damaged_and_not_missing(runs: Path) -> None:
    file = runs / "seed0" / "summary.json"
    file.write_text("null")
    for read in (
        lambda: make_report([runs]),
        lambda: read_runs([str(runs)]),
        lambda: RunRecord(runs / "seed0").summary,
    ):
        with pytest.raises((InputError, Unreadable), match=r"damaged|not the summary of a run") as raised:
            read()
        assert str(raised.value).count(str(file)) == 1, raised.value  # said once


@pytest.mark.parametrize(
    "line", ['{"epoch": null, "test_top1": 1}', '{"epoch": 3, "test_top1": NaN}', '{"epoch": 3, "lr": Infinity}']
)
def test_figures_that_cannot_be_drawn_are_named(line: str, runs: Path) -> None:
    file = runs / "seed0" / "metrics.jsonl"
    file.write_text(file.read_text().partition('{"epoch": 3')[0] + '{"epoch": 3, "test_loss": NaN}\n' + line + "\n")
    with pytest.raises(InputError, match=r"is damaged: (epoch is null|test_top1 is NaN|lr is Infinity)"):
        read_runs([str(runs)])
    file.write_text(file.read_text().replace(line + "\n", ""))
    assert read_runs([str(runs)])  # a loss may be any number


@pytest.mark.parametrize("out", ["table.md", "table.html", "report.html"])
def test_folders_whose_names_are_no_utf8(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.pictures.report.say", lambda line: None)  # pytest's stderr takes no such names
    for name in (b"ok", b"bad\xff"):
        taught(tmp_path / "runs" / os.fsdecode(name), 0, 70.0)
    pictures = [f"runs={tmp_path / 'runs'}", "what=curves"]
    words = pictures if out == "report.html" else [str(tmp_path / "runs")]
    code, _, err = cli.call(visualize if out == "report.html" else table, [*words, f"out={tmp_path / out}"], capsys)
    assert code == 0, err
    assert "bad\\udcff" in (tmp_path / out).read_text()
