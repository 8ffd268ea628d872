"""Values that no run survives, names that leave their folder, shapes that are no keys: one line each."""

import dataclasses
import time
from pathlib import Path

import pytest
from making import plain_make as make

from pipeline.builders.run import default_name
from pipeline.config import ConfigError, TrainConfig
from pipeline.config.by_type import kind_at
from pipeline.config.words import known_keys
from pipeline.distillers import DISTILLERS

BASE = ["dataset=cifar100", "model=resnet8"]
KD = ["dataset=cifar100", "pair=resnet56-resnet20"]
HUGE = ["1e308", "-1e308", "1" + "0" * 18, "9" * 30, "9" * 5000, ".inf", ".nan", "1e999"]
NUMBERS = [name for name in known_keys(TrainConfig) if kind_at(TrainConfig, name).number]


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make(*words)
    found = caught.value.problems
    assert all(len(line) < 2500 and "\n" not in line for line in found)
    return found


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.betas=[2,2]", "optim.betas.0=2"),
        ("optim.betas=[1,1]", "optim.betas.0=1"),
        ("data.padding=100000", "data.padding=100000"),
        ("data.resize=100000", "data.resize=100000"),
        ("data.batch_size=0", "data.batch_size=0"),
        ("data.eval_batch_size=0", "data.eval_batch_size=0"),
        ("data.image_size=0", "data.image_size=0"),
        ("data.mean=[.5]", "data.mean"),
        ("seed=-1", "seed=-1"),
        ("data.seed=4294967296", "data.seed=4294967296"),
        ("data.crop=centre", 'data.crop="centre"'),
        ("data.order=reverse", 'data.order="reverse"'),
        ("data.decode=none", 'data.decode="none"'),
        ("data.padding=-1", "data.padding=-1"),
        ("data.rotation=181", "data.rotation=181"),
        ("data.scale=[0,1]", "data.scale.0=0"),
        ("data.ratio=[2,1]", "ratio must be an ascending range"),
        ("data.workers=-1", "data.workers=-1"),
        ("data.image_size=100000", "data.image_size=100000"),
        ("runtime.threads=100000", "runtime.threads=100000"),
        ("teacher.std=[0,0,0]", "teacher.std: std must be positive"),
        ("data.std=[1e-320,1,1]", "data.std: std must lie in"),
        ("data.mean=[123.7,116.3,103.5]", "divide values of 0..255 by 255"),
        ("teacher.std=[58.4,57.1,57.4]", "divide values of 0..255 by 255"),
        ("data.ratio=[1e-320,1]", "data.ratio.0"),
        ("student.args.num_classes=3", "student.args: num_classes is no option here: the data set says it"),
        ("teacher.args.num_classes=0", "teacher.args: num_classes is no option here"),
        ("teacher.args.pretrained=true", "pretrained is no option here"),
        ("student.args={block: ambb}", "block is no option here: student.block= says it"),
        ("student.args.x.y=[1,.inf]", "student.args: holds a number that is not finite"),
        ("seeds=20000", "seeds=20000"),
    ],
)
def test_bounds(word: str, message: str) -> None:
    assert any(message in line for line in problems(*BASE, word))


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_without_bounds(name: str) -> None:
    assert len(NUMBERS) > 40
    diverging = ("1" + "0" * 18, "9" * 30)  # as a rate these end in a non-finite loss, which is said by itself
    for value in [value for value in HUGE if name != "optim.lr" or value not in diverging]:
        assert any(name in line for line in problems(*BASE, f"{name}={value}"))


@pytest.mark.parametrize("method", DISTILLERS.names())
def test_hyper_parameters_are_finite_and_bounded(method: str) -> None:
    for field in dataclasses.fields(DISTILLERS.get(method).Config):  # type: ignore[arg-type]
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            for value in (*HUGE, "1e-300"):
                name = f"method_args.{field.name}"
                assert any(name in line for line in problems(*KD, f"method={method}", f"{name}={value}"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method_args=null"], "method_args=null: it is a section"),
        (["method_args=1"], "method_args=1: it is a section"),
        (["method_args=abc"], 'method_args="abc": it is a section'),
        (["method_args=[1]"], "method_args=[1]: it is a section"),
        (["data.mean.0=1"], "unknown key 'data.mean.0': data.mean= takes one value"),
        (["data.mean.a=1"], "unknown key 'data.mean.a'"),
        (["seed.a=1"], "unknown key 'seed.a'"),
        (["run.name.x=1"], "unknown key 'run.name.x'"),
        (["data=null"], "data=null: it is a section"),
        (["networks=[cifar]"], 'networks=["cifar"]: input should be'),
        (["seed=!!binary aGk="], 'seed="!!binary aGk="'),
        (["seed=&a [*a]"], 'seed="&a [*a]"'),
        (["seed={a: &a [*a]}"], "cannot read 'seed={a: &a [*a]}'"),
        (["seed=" + "{a: " * 500 + "}" * 500], "nested more than 32 levels deep"),
        (["seed=" + "[1," * 1000 + "]" * 1000], "nested more than 32 levels deep"),
        (["a" + ".a" * 5000 + "=1"], "unknown key 'a.a.a"),
        (["dataset=" + "x" * 300], "unknown dataset 'xxx"),
        (["recipe=" + "x" * 5000], "unknown recipe 'xxx"),
        (["method=" + "x" * 5000], "unknown method 'xxx"),
        (["pair=" + "x" * 5000], "unknown pair 'xxx"),
        (["model=" + "x" * 5000], "unknown model 'xxx"),
        (["teacher.checkpoint=" + "x" * 5000], "teacher.checkpoint: is too long for a path"),
        (["data.root=a\0b"], "data.root: holds a NUL"),
        (["data.root=\udcff"], "no text in UTF-8"),
        (["config=" + "x" * 5000], "cannot read xxx"),
        (["method=kd+kd"], "method kd stands twice"),
    ],
)
def test_shapes_and_names(words: list[str], message: str) -> None:
    assert any(message in line for line in problems(*BASE, *words))


def test_an_unknown_scope_of_networks_is_said_once() -> None:
    [line] = problems(*BASE, "networks=x")
    assert line.startswith('networks="x": input should be')


LEAVING = ["/", "/tmp/x", "..", "../x", "a/../..", "a/..", ".", "./.", "~", "~/x"]
UNPRINTABLE = ["a\nb", "a\rb", "a\x1b[0m", "a\u2028b"]


@pytest.mark.parametrize("name", [*LEAVING, *UNPRINTABLE, "x" * 250, "a/" * 1500 + "b", "é" * 130])
def test_a_run_stays_below_its_folder(name: str, tmp_path: Path) -> None:
    assert any(line.startswith("run.name: ") for line in problems(*BASE, f"run.name={name}"))
    if name.isprintable():
        file = tmp_path / "keys.yaml"
        file.write_text(f"run.name: '{name}'")
        assert any(line.startswith(f"{file}: run.name: ") for line in problems(*BASE, f"config={file}"))


def test_the_last_seed_is_one() -> None:
    assert any("the last seed is above" in line for line in problems(*BASE, "seed=4294967295", "seeds=2"))


def test_usual_names_stay() -> None:
    for name in ("a/b", "kd T=4, second try", "ä/ö", "...", "a..b", "~x", "x" * 240):
        assert make(*BASE, f"run.name={name}").run.name == name


def test_default_names_stay_below_the_folder_and_short() -> None:
    parts = [name for name in DISTILLERS.names() if DISTILLERS.get(name).stands_alone]
    config = make(*BASE).model_copy(update={"method": "+".join(parts * 3)})
    name = default_name(config)
    assert all(0 < len(part.encode()) <= 255 and part != ".." for part in name.split("/"))
    assert default_name(make(*BASE)) == "cifar100/vanilla/resnet8/seed0"
    other = config.model_copy(update={"method": "+".join(parts * 3 + ["kd"])})
    assert default_name(other) != name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: []", "data=[]: it is a section"),
        ("a: &a [*a]", "the alias *a names nothing"),
        ("a: !!python/object/apply:pathlib.PosixPath [a]", "is not read"),
        ("a: !!binary aGk=", "is not read"),
        ("seed: " + "9" * 5000, "seed="),
        ("seed: " + "[" * 500, "nested more than 32"),
        ("x: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"x{i}: &a{i} [{','.join(['*a' + (str(i - 1) if i else '')] * 10)}]\n" for i in range(8)
        ), "more than 200,000 values"),
        ("a: 1\n---\nb: 2", "several documents"),
        ("a: 1\na: 2", "stands twice"),
        ("? [a]\n: 1", "a key must be a word"),
        ("- 1", "does not hold a mapping"),
    ],
)  # fmt: skip
def test_files_that_are_no_keys(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    assert any(message in line and (str(file) in line or "seed=" in line) for line in problems(f"config={file}", *BASE))


def test_files_that_are_no_files(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        assert any("no plain file" in line for line in problems(*BASE, f"config={path}"))
    with (tmp_path / "large").open("wb") as handle:
        handle.truncate(2**33)
    assert any("more than 4 MiB" in line for line in problems(*BASE, f"config={tmp_path / 'large'}"))


def test_thousands_of_unknown_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("".join(f"optim.k{i}: {i}\nk{i}: 1\n" for i in range(10_000)))
    started = time.process_time()
    found = problems(*BASE, f"config={file}")
    assert time.process_time() - started < 20  # it was minutes
    assert len(found) == 51 and "19,950 more problems" in found[-1]
