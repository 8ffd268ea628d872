"""Run folders in, a table out: what is averaged, what it is compared with, and how names are written."""

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cli
import pytest
from run_folders import make_run

from launch import table
from launch.tables.formats import FORMATS, Report, escape_latex, escape_markdown
from launch.tables.report import make_report
from launch.tables.rows import Row

PAIR = ("dataset=cifar100", "pair=resnet32x4-resnet8x4")
NASTY = "a&b_c%<i>|*d*$#{}~^\\"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """kd with three seeds by RepDistiller's recipe, dist with two, the student alone, and a run that is on its way."""
    for seed, last, best in ((0, 73.0, 74.0), (1, 73.6, 74.2), (2, 73.3, 73.7)):
        make_run(tmp_path / f"kd/seed{seed}", *PAIR, "method=kd", f"seed={seed}", last=last, best=best)
    for seed, last in ((0, 70.0), (1, 70.2)):
        make_run(tmp_path / f"dist/seed{seed}", *PAIR, "method=dist", f"seed={seed}", last=last, best=80.0)
    make_run(tmp_path / "alone", "dataset=cifar100", "model=resnet8x4", last=72.4)
    going = make_run(tmp_path / "dist/seed2", *PAIR, "method=dist", "seed=2")
    (going / "metrics.jsonl").write_text(json.dumps({"epoch": 7}) + '\n{"epo')
    return tmp_path


def rows_of(*folders: Path, against: str | None = None) -> dict[str, Row]:
    report = make_report(list(folders), against)
    return {f"{row.method} {row.settings}".strip(): row for row in report.rows}


def test_mean_and_deviation_of_last_and_best_apart(sweep: Path) -> None:
    row = rows_of(sweep)["kd"]
    assert row.seeds == [0, 1, 2]
    assert row.last == pytest.approx((73.3, 0.3))
    assert row.best == pytest.approx(((74.0 + 74.2 + 73.7) / 3, 0.2516611))
    assert rows_of(sweep)["vanilla"].last == (72.4, None)


def test_last_is_compared_with_last_and_best_with_best(sweep: Path) -> None:
    row = rows_of(sweep)["kd"]
    assert row.figure is not None and (row.figure.source, row.figure.top1) == ("repdistiller", 73.33)
    assert row.difference == pytest.approx(73.3 - 73.33)
    of_simkd = rows_of(sweep, against="simkd")["kd"]
    assert of_simkd.figure is not None and of_simkd.figure.compared == "best" and of_simkd.best is not None
    assert of_simkd.difference == pytest.approx(of_simkd.best[0] - 74.42)
    assert any("unlike SimKD's recipe: method_args.ce_weight=0.1 (recipe: 1.0)" in note for note in of_simkd.notes)
    alone = rows_of(sweep)["vanilla"]
    assert alone.figure is not None and alone.figure.top1 == 72.50 and not alone.marked


def test_an_epoch_not_stated_is_said_and_compared_with_last(sweep: Path) -> None:
    row = rows_of(sweep)["dist"]
    assert row.difference == pytest.approx(70.1 - 76.31) and row.marked
    assert "epoch of DIST: not stated; compared with our last" in row.notes


def test_the_mark_needs_more_than_noise(sweep: Path) -> None:
    assert not rows_of(sweep)["kd"].marked  # .03 points, standard error .17
    far = rows_of(sweep, against="mdistiller")["kd"]
    assert far.difference == pytest.approx(73.9667 - 73.33, abs=1e-4) and far.marked  # standard error .15


def test_runs_of_other_settings_are_not_averaged(sweep: Path) -> None:
    make_run(sweep / "hot", *PAIR, "method=kd", "method_args.T=8.0", "seed=0", last=60.0)
    make_run(sweep / "cut", *PAIR, "method=kd", "run.limit_steps=9", "seed=0", last=1.0)
    rows = rows_of(sweep)
    assert sorted(len(r.seeds) for r in rows.values() if r.method == "kd") == [1, 1, 3]
    (hot,) = [r for r in rows.values() if "method_args.T=8.0" in r.settings]
    assert hot.last == (60.0, None) and "unlike RepDistiller's recipe: method_args.T=8.0 (recipe: 4.0)" in hot.notes
    (cut,) = [r for r in rows.values() if "run.limit_steps=9" in r.settings]
    assert "cut short by run.limit_steps=9" in cut.notes


def test_a_recipe_followed_is_not_remarked(sweep: Path) -> None:
    row = rows_of(sweep)["kd"]
    assert row.notes == []


def test_teachers_of_each_seed_are_one_cell(tmp_path: Path) -> None:
    for seed in (0, 1):
        words = (*PAIR, "method=kd", f"teacher.checkpoint=runs/t/seed{seed}", f"seed={seed}")
        make_run(tmp_path / str(seed), *words, last=70.0 + seed)
    other = make_run(tmp_path / "2", *PAIR, "method=kd", "teacher.checkpoint=elsewhere", "seed=0", last=50.0)
    rows = rows_of(tmp_path)
    assert sorted(len(r.seeds) for r in rows.values()) == [1, 2]
    assert rows["kd teacher.checkpoint=elsewhere"].last == (50.0, None)
    assert rows_of(other)["kd"].settings == ""


def test_networks_without_a_pair_get_its_name(tmp_path: Path) -> None:
    words = ("dataset=cifar100", "teacher.model=resnet32x4", "model=resnet8x4", "method=kd")
    run = make_run(tmp_path / "run", *words, last=73.0)
    row = rows_of(run)["kd"]
    assert row.pair == "resnet32x4-resnet8x4" and row.figure is not None


def test_gaps_are_listed(sweep: Path) -> None:
    report = make_report([sweep])
    lines = report.lists["Missing"]
    assert any("vanilla: no run of seed 1, 2" in line for line in lines)
    (going,) = [line for line in lines if "not finished" in line]
    assert "dist: seed 2 is not finished (epoch 7 of 240; " in going
    assert not any("kd:" in line for line in lines)


def test_a_run_whose_config_asks_for_more_epochs_is_not_finished(tmp_path: Path) -> None:
    make_run(tmp_path / "run", *PAIR, "method=kd", last=73.0, epochs=100)
    report = make_report([tmp_path])
    assert report.rows[0].last is None and report.rows[0].difference is None
    assert "seed 0 is not finished" in report.lists["Missing"][0]


def test_repeated_seeds_and_set_aside_runs_are_left_out(sweep: Path) -> None:
    make_run(sweep / "kd/seed0.old-1", *PAIR, "method=kd", "seed=0", last=1.0)
    make_run(sweep / "z", *PAIR, "method=kd", "seed=0", last=2.0)
    report = make_report([sweep, sweep / "kd"])
    (row,) = [r for r in report.rows if r.method == "kd"]
    assert row.last == pytest.approx((73.3, 0.3))
    (line,) = report.lists["Left out"]
    assert line.startswith(str(sweep / "z")) and "same settings and seed" in line


def test_a_method_without_published_figures_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "run", *PAIR, "method=energykd", last=70.0)
    row = rows_of(tmp_path)["energykd"]
    assert row.figure is None and "README without a table" in row.notes[0]


def test_markdown_rows(sweep: Path) -> None:
    text = FORMATS["markdown"](make_report([sweep]))
    assert re.search(
        r"\| kd \|.*\| 3 \| 73.30 ± 0.30 \| 73.97 ± 0.25 \| 73.33 \| RepDistiller, last \| −0.03 \(last\) \|", text
    )
    assert "| 76.31 ± 0.19 | DIST, epoch not stated [1] | **−6.21 (last)** |" in text
    assert "RepDistiller: README of HobbitLong/RepDistiller; epoch: last; no deviation published" in text
    lengths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(lengths) == 1


def test_csv_is_numbers(sweep: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](make_report([sweep])))))
    (kd,) = [row for row in rows if row["method"] == "kd"]
    assert (kd["n"], kd["seeds"], kd["last_mean"], kd["best_std"]) == ("3", "0 1 2", "73.3000", "0.2517")
    assert (kd["published"], kd["published_std"], kd["compared"], kd["marked"]) == ("73.3300", "", "last", "0")


class Page(HTMLParser):
    """Tags opened and not closed, all tags, all text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def nasty_report() -> Report:
    row = Row(NASTY, NASTY, NASTY, NASTY, NASTY, NASTY, [0], last=(1.0, None), best=(1.0, None), notes=[NASTY])
    return Report(NASTY, [row], {NASTY: [NASTY]})


def test_names_mean_nothing_to_html() -> None:
    page = Page()
    page.feed(FORMATS["html"](nasty_report()))
    assert page.open == [] and "i" not in page.tags
    assert page.text.count(NASTY) == 11  # title and h1, data set, five names, note, heading and its line


def test_names_mean_nothing_to_latex() -> None:
    text = escape_latex(NASTY)
    assert text == (
        r"a\&b\_c\%\textless{}i\textgreater{}\textbar{}*d*\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    whole = re.sub(r"\\[{}]", "", FORMATS["latex"](nasty_report()))
    assert whole.count("{") == whole.count("}")
    assert whole.count(r"\begin{") == whole.count(r"\end{")


def test_names_mean_nothing_to_markdown() -> None:
    assert escape_markdown("a|b_c*d*<i>&") == r"a\|b\_c\*d\*\<i\>&amp;"
    assert escape_markdown("one\ntwo") == "one two"


def test_command_line(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = cli.call(table, [str(sweep)], capsys)
    assert (code, err) == (0, "") and out.startswith("# Top-1 on the test set")
    for suffix, begin in (
        (".html", "<!DOCTYPE html>"),
        (".tex", "\\begin{table}"),
        (".csv", "dataset,"),
        (".md", "# "),
    ):
        file = sweep / f"table{suffix}"
        code, out, _ = cli.call(table, [str(sweep / "kd"), str(sweep / "alone"), f"out={file}"], capsys)
        assert (code, out) == (0, f"2 rows, 4 runs: {file}\n") and file.read_text().startswith(begin)


def test_runs_by_path(sweep: Path) -> None:
    done = subprocess.run(
        [sys.executable, table.__file__, str(sweep / "kd"), "format=csv"], cwd=sweep, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("\n") == 2, done.stderr


BAD = {
    "no run folder": [],
    "no such folder: {}/no": ["{}/no"],
    "is not a folder": ["{}/alone/config.yaml"],
    "holds no run": ["{}/empty"],
    "unknown source 'repdistill'; did you mean 'repdistiller'": ["{}", "against=repdistill"],
    "unknown key 'formt'; did you mean 'format'": ["{}", "formt=csv"],
    "cannot write": ["{}", "out={}/no/table.md"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_words_are_one_line_and_exit_code_2(sweep: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "empty").mkdir()
    code, _, err = cli.call(table, [word.replace("{}", str(sweep)) for word in BAD[message]], capsys)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert message.replace("{}", str(sweep)) in err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{", "cannot read"),
        ("summary.json", "[]", "is not the summary of a run"),
        ("summary.json", "{}", "is not the summary of a run: epochs= must be given"),
        ("summary.json", '{"epochs": 9, "top1_last": NaN, "top1_best": 1, "select_on": "test"}', "top1_last"),
        ("summary.json", '{"epochs": 9, "top1_last": 101, "top1_best": 1, "select_on": "test"}', "top1_last=101"),
        ("config.yaml", "dataset: [", "cannot read"),
        ("config.yaml", "dataset: cifar100\na: 1", "unknown key 'a'"),
        ("config.yaml", "", "is not the configuration of a run"),
    ],
)
def test_a_bad_folder_is_one_line_and_exit_code_2(
    sweep: Path, file: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "alone" / file).write_text(content)
    code, _, err = cli.call(table, [str(sweep)], capsys)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert message in err and str(sweep / "alone" / file) in err


def test_columns_of_published_figures_only_where_there_are_some(tmp_path: Path) -> None:
    make_run(tmp_path / "one", "dataset=synthetic", "model=resnet8", last=60.0)
    [part] = make_report([tmp_path]).parts()
    assert part.columns == ("pair", "method", "variant", "recipe", "n", "last", "best")
    assert "published" not in FORMATS["html"](make_report([tmp_path]))
