"""From cells to runs: names, teachers, caches, refusals; every preset is composed."""

from pathlib import Path
from typing import Any

import cli
import pytest

from launch import sweep
from launch.sweeps.cells import cells_of
from launch.sweeps.file import FOLDER, checked_file, read_file, sweep_path
from launch.sweeps.plan import make_plan
from launch.sweeps.runs import Plan
from launch.tables.published import read_published
from pipeline.builders.names import train_config
from pipeline.config import ConfigError

TABLES = {
    "rep_same_family": ["rep_t1"],
    "cifar100_table1": ["rep_t1"],
    "rep_cross_family": ["rep_t2"],
    "mdistiller_same_family": ["mdistiller_t1"],
    "mdistiller_cross_family": ["mdistiller_t2"],
    "simkd": ["simkd_t1"],
}
COUNTS = {"r2kd_tiny": 6 * 5 * 3, "imagenet": 2 * 5 + 1, "embedded": 2 + 3 * 2 * 3}
COUPLES = [{"teacher.model": "resnet14", "student.model": "resnet8"}, {"pair": "resnet20-resnet8"}]
TINY = {"dataset": "synthetic", "optim.epochs": 1}


def plan_of(content: dict[str, Any], folder: Path = Path("runs/x"), **words: Any) -> Plan:
    file = checked_file(content, "x.yaml")
    made = make_plan(file, cells_of(file, words, read_published()), words, folder)
    return made if file.cache is None else sweep.add_caches(made, file.cache)


def published_cells(names: list[str]) -> int:
    """Figures of tables, counted by hand: those of methods that are here."""
    tables = [read_published().tables[name] for name in names]
    return sum(
        figure is not None and not (row in t.labels and t.labels[row].method is None)
        for t in tables
        for row, figures in t.top1.items()
        for figure in figures
    )


def test_every_preset_is_known_here() -> None:
    assert {p.stem for p in FOLDER.glob("*.yaml")} == TABLES.keys() | COUNTS.keys()


@pytest.mark.parametrize("name", [*TABLES, *COUNTS])
def test_presets_are_composed(name: str) -> None:
    file = checked_file(read_file(sweep_path(name)), name)
    cells = cells_of(file, {}, read_published())
    if name == "cifar100_table1":  # the same cells as another one
        assert cells == cells_of(checked_file(read_file(sweep_path("rep_same_family")), name), {}, read_published())
        return
    plan = make_plan(file, cells, {}, Path("runs") / name)
    wanted = COUNTS[name] if name in COUNTS else 3 * published_cells(TABLES[name])
    assert len(plan.runs) == wanted and plan.repeats == 0
    assert len({run.name for run in plan.runs}) == wanted


def test_the_words_of_a_run_give_its_configuration() -> None:
    content = {
        "set": {**TINY, "data.scale": [0.1, 1], "log.wandb_project": "null", "optim.min_lr": 1e-05},
        "axes": {"couple": COUPLES, "method": ["kd", "dkd+sp"]},
        "teachers": "train",
        "teacher_set": {"optim.epochs": 3},
        "seeds": 2,
        "first_seed": 4,
    }
    plan = plan_of(content)
    assert len(plan.students) == 8
    for run in [*plan.teachers, plan.students[0], plan.students[-1]]:
        assert train_config(run.words) == run.config
    assert plan.students[-1].config.seed == 5 and plan.students[0].config.log.wandb_project == "null"
    first, second = plan.teachers
    assert (first.name, second.name) == ("synthetic/teacher/resnet14/seed0", "synthetic/teacher/resnet20/seed0")
    assert first.config.optim.epochs == 3 and first.config.method == "vanilla" and first.config.data.scale == (0.1, 1)
    assert plan.students[0].config.teacher.checkpoint == str(first.folder) and plan.students[0].waits == first.folder


def test_methods_without_a_teacher_and_given_weights_need_no_training() -> None:
    content = {
        "set": TINY,
        "include": [{"model": "resnet8"}, {"pair": "res20-res8", "method": "kd", "teacher.checkpoint": "f.pth"}],
    }
    plan = plan_of({**content, "teachers": "train"})
    assert plan.teachers == [] and [run.config.teacher.checkpoint for run in plan.students] == [None, "f.pth"]
    auto = plan_of({"set": {**TINY, "pair": "res20-res8"}, "axes": {"method": ["kd", "vanilla"]}, "teachers": "auto"})
    assert [run.config.teacher.checkpoint for run in auto.students] == ["auto", None]
    with pytest.raises(
        ConfigError, match=r"synthetic kd resnet20-resnet8: needs teacher\.checkpoint=, or teachers=auto"
    ):
        plan_of({"set": {**TINY, "pair": "res20-res8", "method": "kd"}})


def test_a_teacher_keeps_its_own_view_where_recipes_differ() -> None:
    content = {
        "set": {"dataset": "tiny_imagenet", "pair": "resnet32x4-resnet8x4"},
        "axes": {"method": ["kd"], "recipe": ["r2kd", "mdistiller"]},
        "teachers": "train",
    }
    plan = plan_of(content)
    (teacher,), (same, other) = plan.teachers, plan.students
    assert same.config.teacher.mean is None and same.config.data.mean == teacher.config.data.mean
    assert other.config.teacher.mean == teacher.config.data.mean != other.config.data.mean
    assert train_config(other.words) == other.config


def names(content: dict[str, Any], **words: Any) -> list[str]:
    return [run.name for run in plan_of({"set": {**TINY, "model": "resnet8"}, **content}, **words).students]


def test_names_are_those_of_training_with_what_tells_cells_apart() -> None:
    assert names({"axes": {"data.root": ["D"]}}) == ["synthetic/vanilla/resnet8/seed0"]
    assert names({"axes": {"optim.lr": [0.1]}}) == ["synthetic/vanilla-lr0.1/resnet8/seed0"]  # a second rate may come
    assert names({"axes": {"optim.lr": [0.1, 0.2]}}, **{"optim.lr": 0.3}) == ["synthetic/vanilla/resnet8/seed0"]
    assert names({"axes": {"how": [{"optim.lr": 0.1}, {"data.scale": [0.5, 1]}]}}) == [
        "synthetic/vanilla-lr0.1/resnet8/seed0",
        "synthetic/vanilla-scale0.5_1/resnet8/seed0",
    ]
    assert names({"axes": {"how": [{"optim.lr": 0.1}]}}) == ["synthetic/vanilla/resnet8/seed0"]
    clash = names({"axes": {"data.root": ["a/b", "a-b"]}})
    assert len(set(clash)) == 2 and clash == names({"axes": {"data.root": ["a/b", "a-b"]}})


def test_equal_runs_are_there_once() -> None:
    content = {"set": {**TINY, "model": "resnet8"}, "axes": {"how": [{}, {"optim.lr": 0.1}, {"seed": 0}]}, "seeds": 2}
    content["include"] = [{"seed": [1, 2]}]
    content["axes"] = {"how": [{}, {"optim.lr": 0.1}]}  # .1 is the data set's own rate
    plan = plan_of(content)
    assert [run.config.seed for run in plan.students] == [0, 1, 2] and plan.repeats == 3


def test_caches_stand_between_teachers_and_the_students_they_are_enough_for() -> None:
    content = {
        "set": {**TINY, "pair": "res20-res8"},
        "axes": {"method": ["kd", "dkd", "at", "mlkd", "rkd"], "seed": [0, 1]},
        "teachers": "train",
        "cache": {"dtype": "fp16"},
    }
    plan = plan_of(content)
    assert len(plan.caches) == 2  # mlkd has views of its own
    shared, own = plan.caches
    assert {"cache.views=1", "cache.dtype=fp16", "cache.pooled=true"} <= set(
        shared.words
    ) and "method=mlkd" in own.words
    by_method = {run.config.method: run for run in plan.students}
    assert by_method["at"].config.teacher.source == "live" and by_method["at"].waits == plan.teachers[0].folder
    assert by_method["rkd"].waits == by_method["dkd"].waits == shared.folder and by_method["mlkd"].waits == own.folder
    assert train_config(by_method["dkd"].words) == by_method["dkd"].config
    assert by_method["dkd"].config.teacher.cache == str(shared.folder) and shared.waits == plan.teachers[0].folder


def test_problems_of_all_cells_come_together() -> None:
    content = {
        "set": {"dataset": "synthetic", "pair": "res20-res8", "optim.lrr": 1, "teacher.checkpoint": "none"},
        "axes": {"method": ["kd", "dkd", "nosuch", "dot"], "variant": ["default", "mine"]},
    }
    with pytest.raises(ConfigError) as raised:
        plan_of(content)
    text = "\n".join(raised.value.problems)
    assert "all 8 cells: unknown key 'optim.lrr'; did you mean 'optim.lr'" in text
    assert "synthetic nosuch resnet20-resnet8 and 1 more cells: unknown method 'nosuch'" in text
    content["set"].pop("optim.lrr")
    content["axes"]["method"] = ["kd", "dot"]
    with pytest.raises(ConfigError) as raised:
        plan_of(content)
    text = "\n".join(raised.value.problems)
    assert "method kd has no variant 'mine'" in text and "method dot only changes other methods" in text


def test_ten_problems_are_shown() -> None:
    with pytest.raises(ConfigError) as raised:
        plan_of({"set": TINY, "axes": {"model": [f"net{i}" for i in range(13)]}})
    assert len(raised.value.problems) == 11 and raised.value.problems[-1] == "and 3 more problems"


HOSTILE = ["$(touch owned)", "a;touch owned", "`touch owned`", "x y", "a%j", "a\nb"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_and_nothing_is_executed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "s.yaml"
    file.write_text("set: {dataset: synthetic, model: resnet8}\n")
    for words in ([f"run.dir={name!r}"], [f'axes.log.wandb_project=["{name!r}"]']):
        code, out, err = cli.call(sweep, [f"sweep={file}", "cluster=local", *words], capsys)
        assert (code, out) == (2, "") and "shells or Slurm interpret" in err, err
    assert [p.name for p in tmp_path.iterdir()] == ["s.yaml"]
