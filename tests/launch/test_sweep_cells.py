"""From a sweep's file and the command line to cells: axes, tables, exclusions, further runs, spellings, refusals."""

from pathlib import Path
from typing import Any

import pytest

from launch.sweeps.cells import Cell, cells_of, count
from launch.sweeps.file import checked_file, plain, read_words, sweep_path
from launch.sweeps.keys import SweepFile
from launch.tables.published import read_published
from pipeline.config import ConfigError
from pipeline.contracts import InputError


def cells(content: dict[str, Any], **words: Any) -> list[Cell]:
    return cells_of(checked_file(content, "x.yaml"), words, read_published())


def rows(found: list[Cell], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(cell.keys.get(k) for k in keys) for cell in found]


def test_axes_multiply_in_order_and_entries_of_several_keys_go_together() -> None:
    found = cells(
        {
            "set": {"dataset": "synthetic", "optim": {"epochs": 2}},
            "axes": {"pair": ["res20-res8"], "method": ["KD", "at"], "how": [{"optim.lr": 0.1}, {"data.flip": False}]},
            "seeds": 2,
            "first_seed": 3,
        }
    )
    assert rows(found, "pair", "method", "optim.lr", "data.flip", "optim.epochs") == [
        ("resnet20-resnet8", "kd", 0.1, None, 2),
        ("resnet20-resnet8", "kd", None, False, 2),
        ("resnet20-resnet8", "at", 0.1, None, 2),
        ("resnet20-resnet8", "at", None, False, 2),
    ]
    assert {cell.seeds for cell in found} == {(3, 4)} and count(found) == 8


def test_exclusions_compare_all_their_keys_in_any_spelling_seeds_too() -> None:
    content = {
        "axes": {"method": ["kd", "dkd"], "pair": ["resnet20-resnet8", "vgg13-vgg8"], "seed": [0, 1]},
        "exclude": [{"method": ["dkd"], "pair": "res20_res8"}, {"pair": "vgg13-vgg8", "seed": 1}],
    }
    found = cells(content)
    assert [(c.keys["method"], c.keys["pair"], c.seeds) for c in found] == [
        ("kd", "resnet20-resnet8", (0, 1)),
        ("kd", "vgg13-vgg8", (0,)),
        ("dkd", "vgg13-vgg8", (0,)),
    ]


def test_a_table_gives_its_cells_and_axes_choose_among_them() -> None:
    whole = cells({"table": "simkd_t1", "seeds": 3})
    assert count(whole) == 11 * 3 * 3
    chosen = cells(
        {"table": "simkd_t1", "axes": {"method": ["SimKD f=8", "at"], "optim.lr": [0.1, 0.2]}}, pair="res32x4-vgg8"
    )
    assert rows(chosen, "method", "pair", "recipe", "method_args.factor", "optim.lr") == [
        ("at", "resnet32x4-vgg8", "simkd", None, 0.1),
        ("at", "resnet32x4-vgg8", "simkd", None, 0.2),
        ("simkd", "resnet32x4-vgg8", "simkd", 8, 0.1),
        ("simkd", "resnet32x4-vgg8", "simkd", 8, 0.2),
    ]
    with pytest.raises(InputError, match="method 'dkd' is not in simkd_t1; did you mean 'kd'"):
        cells({"table": "simkd_t1", "axes": {"method": ["dkd"]}})
    with pytest.raises(InputError, match="unknown 'rep_t9'; did you mean 'rep_t"):
        cells({"table": "rep_t9"})
    with pytest.raises(InputError, match="no cell in norm_t1 and wkd_cifar100 is of a method and a pair that are here"):
        cells({"table": ["norm_t1", "wkd_cifar100"]})
    assert rows(cells({"table": "dist_imagenet_large"}), "method", "pair", "method_args.T") == [
        ("kd", "ResNet50-ResNet18", 4.0),
        ("dist", "ResNet50-ResNet18", None),
    ]


def test_words_of_the_command_line_win_and_replace_axes() -> None:
    found = cells(
        {"set": {"dataset": "cifar100"}, "axes": {"method": ["kd", "at"], "a": [{"data.root": "x"}]}}, method="sp"
    )
    assert rows(found, "method", "data.root") == [("sp", "x")]
    found = cells({"axes": {"method": ["kd"], "a": [{"data.root": "x"}]}}, **{"data.root": "y", "seed": 7})
    assert rows(found, "data.root") == [("y",)] and found[0].seeds == (7,)


ALL_EXCLUDED = {"axes": {"method": ["kd", "at"]}, "exclude": [{"method": ["kd", "at"]}], "seeds": 3}


def test_further_runs_have_seeds_of_their_own() -> None:
    found = cells(
        {
            "set": {"dataset": "synthetic"},
            "include": [{"model": "resnet8"}, {"model": "resnet14", "seed": [5]}],
            "seeds": 2,
        }
    )
    assert [(c.keys["student.model"], c.seeds) for c in found] == [("resnet8", (0, 1)), ("resnet14", (5,))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ALL_EXCLUDED, "leave nothing of 6 .*method.* leaves out 6"),
        ({"axes": {"method": []}}, "0 runs: axes.method has no value"),
        ({}, "0 runs: no axes, no table and no include"),
        ({"axes": {"method": ["kd"]}, "exclude": [{"metod": "kd"}]}, "no run sets 'metod'; did you mean 'method'"),
        ({"axes": {"method": ["kd"], "seed": [0, "x"]}}, "seed='x': expected a whole number"),
        ({"axes": {"method": ["kd"], "seed": [-1]}}, "seed=-1"),
        ({"axes": {name: [*range(100)] for name in "abcd"}}, "100,000,000 combinations"),
        ({"axes": {"method": ["kd"]}, "seeds": 10**10}, "not even looked at"),
    ],
)  # fmt: skip
def test_nothing_left_or_far_too_much(content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells(content)


def test_a_hundred_thousand_runs_are_counted_at_once() -> None:
    found = cells({"axes": {"method": ["kd"], "method_args.T": [*range(1000)], "optim.lr": [*range(10)]}, "seeds": 10})
    assert count(found) == 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"axs": {}}, "unknown key 'axs'; did you mean 'axes'"),
        ({"seeds": 0}, "seeds=0"),
        ({"teachers": "borrowed"}, "teachers="),
        ({"set": {"run.name": "x"}}, "set: run.name: the sweep names its runs"),
        ({"axes": {"a": [{"run": {"dir": "x"}}]}}, "axes: run.dir: one for all runs"),
        ({"set": {"run.resume": "never"}}, "run.resume: a sweep goes on"),
        ({"set": [1]}, "set="),
        ({"cache": {"dtyp": "fp16"}}, "unknown key 'cache.dtyp'"),
        ({"title": __import__("datetime").date(2026, 1, 1)}, "not JSON serializable"),
    ],
)  # fmt: skip
def test_bad_files(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        checked_file(content, "x.yaml")


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_command_line_changes_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "set: {dataset: cifar10, optim: {lr: 1}}\naxes: {method: [kd], pair: [a]}\nseeds: 3\n")
    words = [
        f"sweep={file}",
        "sweep.dry=true",
        "cluster=local",
        "cluster.parallel=2",
        "seeds=5",
        "axes.method=[dkd,at]",
    ]
    asked = read_words(
        [*words, "axes.optim.lr=[0.1,0.2]", "model=resnet8", "teacher_set.optim.epochs=9", "cache.views=4"]
    )
    assert asked.launcher.sweep.dry and asked.launcher.cluster.parallel == 2
    assert asked.file.axes == {"method": ["dkd", "at"], "pair": ["a"], "optim.lr": [0.1, 0.2]}
    assert asked.file.seeds == 5 and asked.file.set == {"dataset": "cifar10", "optim.lr": 1}
    assert asked.file.cache is not None and asked.file.cache.views == 4
    assert asked.words == {"student.model": "resnet8"} and asked.file.teacher_set == {"optim.epochs": 9}
    again = read_words([f"sweep={write(tmp_path, plain(asked.file, asked.words), 'again.yaml')}"])
    assert again.words == asked.words and again.file.axes == asked.file.axes and again.file.cache == asked.file.cache


def test_a_file_may_be_like_another_one(tmp_path: Path) -> None:
    asked = read_words([f"sweep={write(tmp_path, 'like: embedded' + chr(10) + 'seeds: 1')}"])
    assert asked.file.seeds == 1 and asked.file.teachers == "train"
    with pytest.raises(ConfigError, match="like: itself"):
        read_words([f"sweep={write(tmp_path, f'like: {tmp_path}/mine.yaml')}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "does not hold a mapping"),
        ("a: [", "cannot read"),
        ("!!python/object/apply:os.system [touch owned]", "cannot read"),
        ("a: &x [*x]", "cannot read|ircular|unknown key"),
    ],
)
def test_files_are_data(tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        read_words([f"sweep={file}"])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_unknown_sweeps_and_keys_come_together() -> None:
    with pytest.raises(ConfigError) as raised:
        read_words(["sweep=embeded", "cluster=nowhere", "sweep.mst=1", "sweep.pictures=curve", "run.name=x", "rubbish"])
    text = "\n".join(raised.value.problems)
    for part in (
        "did you mean 'embedded'",
        "sweep.mst",
        "unknown cluster 'nowhere'",
        "run.name: the sweep names",
        "got 'rubbish'",
    ):
        assert part in text
    with pytest.raises(ConfigError, match=r"sweep\.pictures: unknown picture 'curve'"):
        read_words(["sweep=embedded", "sweep.pictures=curve"])
    with pytest.raises(ConfigError, match="no such file"):
        sweep_path("nothing.yaml")
    assert SweepFile().teachers == "given"
