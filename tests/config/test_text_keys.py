"""Text is text: every text key gets what was written, from the command line and from files."""

import os
from pathlib import Path

import pytest
from making import plain_make as make

from launch.sweeps.file import read_file
from launch.sweeps.runs import words_of
from pipeline.builders.names import ALIASES, NAMES
from pipeline.config import ConfigError, ExportConfig, TrainConfig, compose, read_yaml
from pipeline.config.by_type import kind_at
from pipeline.config.words import known_keys
from pipeline.measure.keys import BenchmarkConfig
from pipeline.pictures.keys import VisualizeConfig
from pipeline.utils.plain_yaml import dump

BASE = ["dataset=cifar100", "model=resnet8"]
WRITTEN = [
    *("007", "1_000", "12:30:00", "1e3", "no", "off", "true", "2024-01-01", "0x1F", "1234567", "12e4567", "~x", "y"),
    *("None", "a b", "x=1", ".5", "-", "1.0", "é", "00", "+1", "1,2", "=", "%", "@a", "a${b}c", "a#b", "!x"),
]
IN_WORDS = [*WRITTEN, "x #2", "#1", "&a", "*a", "${x}", "${", "[a]", "{a: b}", "a: b", "| x", "- x", "!!int 3"]
PATHS = [name for name in known_keys(TrainConfig) if kind_at(TrainConfig, name).path]
FREE = [name for name in known_keys(TrainConfig) if kind_at(TrainConfig, name).text and name not in NAMES]


def value(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_the_text_keys_are_those_that_people_write() -> None:
    assert {"data.root", "data.ffcv.train", "teacher.checkpoint", "teacher.cache", "run.dir"} <= {*PATHS}
    assert {*PATHS, "run.name", "log.wandb_project", "variant"} <= {*FREE}


@pytest.mark.parametrize("name", [n for n in FREE if n not in ("pair", "recipe")])
def test_words_reach_text_keys_unchanged(name: str) -> None:
    for text in IN_WORDS:
        if not (text.startswith("~") and name in PATHS):
            assert value(make(*BASE, f"{name}={text}"), name) == text


def test_files_reach_text_keys_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    for text in WRITTEN:
        for form in ("run.name: {}", "run: {{name: {}}}", "run:\n  name: {}  # a comment", "run.name: '{}'"):
            if form.startswith("run: ") and ("," in text or "{" in text):
                continue  # a comma and braces end a text inside braces
            if "'" not in form and text[0] in "%@!-=":
                continue  # YAML wants quotes there
            file.write_text(form.format(text))
            assert make(*BASE, f"config={file}").run.name == text, (form, text)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for text in IN_WORDS:
        config = make(*BASE, f"run.name={text}", f"teacher.root=./{text}")
        file.write_text(dump(config.model_dump(mode="json")))
        assert make(f"config={file}") == config
        assert read_yaml(file)["run"]["name"] == text


@pytest.mark.parametrize("word", ["run.name=", "run.dir=", "data.root=", "run.name=''", "optim.lr=", "data.resize= "])
def test_an_empty_value_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"empty|no value"):
        make(*BASE, word)


def test_an_empty_text_in_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("run:\n  name:\n")
    with pytest.raises(ConfigError, match=r"run\.name: is empty"):
        make(*BASE, f"config={file}")
    file.write_text("data:\nrun:\n  name: null\n")
    assert make(*BASE, f"config={file}").run.name is None


def test_null_takes_a_text_away_and_quotes_keep_it() -> None:
    assert make(*BASE, "run.name=x", "run.name=null").run.name is None
    assert make(*BASE, 'run.name="null"').run.name == "null"
    assert make(*BASE, "run.name='it''s'").run.name == "it's"
    assert make(*BASE, 'run.name="a" and "b"').run.name == '"a" and "b"'


@pytest.mark.parametrize("name", PATHS)
def test_a_path_begins_at_home(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert value(make(*BASE, f"{name}=~/x"), name) == "/home/somebody/x"
    assert value(make(*BASE, f"{name}=a/~/x"), name) == "a/~/x"
    file = tmp_path / "keys.yaml"
    file.write_text(f"{name}: ~/x")
    assert value(make(*BASE, f"config={file}"), name) == "/home/somebody/x"


def test_paths_of_other_entry_points_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from data_prep import cache_teacher, fetch_teachers, imagenet, synthetic, tiny_imagenet, write_beton

    monkeypatch.setenv("HOME", "/home/somebody")
    made = compose(VisualizeConfig, ["runs=~/a,~/b", "out=~/x.html"])
    assert (made.runs, made.out) == (("/home/somebody/a", "/home/somebody/b"), "/home/somebody/x.html")
    assert compose(ExportConfig, ["out=~/x"], aliases=ALIASES, names={}).out == "/home/somebody/x"
    bench = compose(BenchmarkConfig, [*BASE, "plot=~/x.png", "json_file=-"], aliases=ALIASES, names={})
    assert (bench.plot, bench.json_file) == ("/home/somebody/x.png", "-")
    for schema in (
        synthetic.SyntheticConfig,
        tiny_imagenet.TinyConfig,
        imagenet.ImagenetConfig,
        fetch_teachers.FetchConfig,
    ):
        assert compose(schema, ["out=~/x"]).out == "/home/somebody/x"
    words = ["dataset=cifar100", "out=~/x"]
    assert compose(write_beton.WriteBetonConfig, words).out == "/home/somebody/x"
    cache = cache_teacher.read_config(["dataset=cifar100", "cache.out=~/x"])
    assert cache.cache.out == "/home/somebody/x"


def test_config_files_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "keys.yaml").write_text("run.name: 1e3")
    assert make(*BASE, "config=~/keys.yaml").run.name == "1e3"
    assert os.environ["HOME"] == str(tmp_path)


@pytest.mark.parametrize(
    "name", [n for n in known_keys(BenchmarkConfig) if kind_at(BenchmarkConfig, n).words & {"on", "off"}]
)
def test_words_that_yaml_takes_for_truth_values(name: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    for word in kind_at(BenchmarkConfig, name).words & {"on", "off"}:
        for written in (word, {"on": "yes", "off": "no"}[word], {"on": "true", "off": "false"}[word]):
            file.write_text(f"{name}: {written}")
            for words in ([f"{name}={written}"], [f"config={file}"]):
                found = compose(BenchmarkConfig, [*BASE, *words], aliases=ALIASES, names={})
                assert value(found, name) == word


def test_there_are_such_words() -> None:
    found = {n for n in known_keys(TrainConfig) if kind_at(TrainConfig, n).words & {"on", "off"}}
    assert {"data.index", "teacher.fold", "teacher.amp", "teacher.verify", "runtime.amp", "runtime.compile"} <= found
    assert make(*BASE, "data.flip=off", "runtime.parallel_seeds=off").data.flip is False


def test_numbers_are_decimal_and_whole_words() -> None:
    assert make(*BASE, "seed=010").seed == 10
    assert make(*BASE, "seed=1_000").seed == 1000
    assert make(*BASE, "optim.lr=1e-2").optim.lr == 0.01
    for word in ("seed=1 #2", "seed=12:30", "seed=&a 3", "seed=1.0", 'seed="3"', "seed=${x}"):
        with pytest.raises(ConfigError, match="seed="):
            make(*BASE, word)


def test_a_sweep_passes_text_on(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: 007\nset: {run.dir: 007, data: {root: 1e3}}\naxes: {teacher.checkpoint: [no, 010], seed: [1]}\n"
    )
    content = read_file(file)
    assert content["title"] == "007" and content["set"]["data"] == {"root": "1e3"}
    assert content["axes"] == {"teacher.checkpoint": ["no", "010"], "seed": [1]}
    [word, _] = words_of(content["set"])
    assert make(*BASE, word).run.dir == "007"
