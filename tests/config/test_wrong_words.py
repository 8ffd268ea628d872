"""Wrong words at the command line: all told together, each with what was probably meant and the file it stands in."""

from pathlib import Path

import cli
import pytest
from making import plain_make as make

from pipeline import evaluate, export
from pipeline.builders.method import method_kinds
from pipeline.config import ConfigError
from pipeline.config.layer_folders import OWN
from pipeline.contracts import InputError
from pipeline.engine.reporting.reporter import figures_text
from pipeline.run_folder.summary import finish_text

Capture = pytest.CaptureFixture[str]
BASE = ("dataset=cifar100", "pair=resnet56-resnet20")


def problems(*words: str) -> list[str]:
    with pytest.raises((ConfigError, InputError)) as caught:
        method_kinds(make(*BASE, *words))
    return str(caught.value).splitlines()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of the user's own, to be written."""
    monkeypatch.setenv(OWN, str(tmp_path))
    file = tmp_path / "recipe" / "mine.yaml"
    file.parent.mkdir()
    return file


def test_unknown_keys_hide_no_other_mistake() -> None:
    words = ["optim.epochs=-1", "method_args.T=-2", "runtime.amp=fp17", "data.train_limit=1", "variant=label"]
    found = problems("method=kd", *words)
    starts = ["optim.epochs=-1:", "method_args.T=-2:", 'runtime.amp="fp17":', "unknown key 'data.train_limit'"]
    for start in [*starts, "method kd has no variant 'label'"]:
        assert sum(line.startswith(start) for line in found) == 1, found
    assert len(found) == 5
    assert not any("variant" in line for line in problems("method=kd", *words[:-1], "variant=help"))


def test_what_a_layer_says_wrongly_is_told_once(recipe: Path) -> None:
    recipe.write_text("method_args: {nosuch: 1}\n")
    found = problems("method=kd", "recipe=mine", "method_args.T=-2")
    assert len(found) == 2 and f"{recipe}: method_args: unknown word 'nosuch'" in found[0]
    assert found[1].startswith("method_args.T=-2:")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=at+kd", "variant=aligned"], "every part of at+kd, and all have paper; without it each part has its"),
        (["method=at+kd", "variant=papr"], "has no variant 'papr'; did you mean 'paper'?: variant= holds"),
        (["method=at", "variant=aligne"], "no variant 'aligne'; did you mean 'aligned'? (known: "),
        (["method=at+kd", "method_args.at.variant=aligned"], "unknown key 'method_args.at.variant': variant= holds"),
        (["method=at", "method_args.variant=aligned"], "'method_args.variant'; did you mean 'variant'? (known: "),
        (["method=kd", "T=2"], "unknown key 'T'; did you mean 'method_args.T'?"),
        (["T=2"], "unknown key 'T'"),
        (["lr=1"], "unknown key 'lr'; did you mean 'optim.lr'?"),
        (["method=similarity+KD", "T=2"], "did you mean 'method_args.sp.T' or 'method_args.kd.T'?"),
        (["method=kd+dkd", "method_args.beta=2"], "'method_args.beta'; did you mean 'method_args.dkd.beta'? (known: "),
        (["method=kd+at", "method_args.margin=4"], "'method_args.margin' (known: method_args.kd.*, method_args.at.*; "),
        (["method=kd+at", "method_args.margin=4"], "of 'kd+at' write method_args.PART.KEY)"),
        (["method=kd", "method_args.margin=4"], "unknown key 'method_args.margin' (known: method_args.T, "),
        (["method=kd", "method_args.t=4"], "unknown key 'method_args.t'; did you mean 'method_args.T'?"),
        (["method=kd+at", "method_args.kd.T=two"], 'method_args.kd.T="two": '),
    ],
)
def test_what_was_meant(words: list[str], message: str) -> None:
    assert any(message in line for line in problems(*words)), problems(*words)


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("crd", "method_args: {K: two}", 'method_args.K="two": input should be a valid integer'),
        ("kd", "method_args: {beta: 4}", "unknown key 'method_args.beta' (known: method_args.T, "),
        ("kd+at", "method_args: {beta: 4}", "unknown key 'method_args.kd.beta' (known: method_args.kd.T, "),
        ("kd+at", "method_args: {beta: 4}", "; for one part alone: per: [{when: {method: NAME}, set: {method_args.b"),
    ],
)
def test_a_recipe_with_a_wrong_argument_is_named(method: str, text: str, message: str, recipe: Path) -> None:
    recipe.write_text(text + "\n")
    found = problems(f"method={method}", "recipe=mine")
    assert any(line.startswith(f"{recipe}: ") and message in line for line in found), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method_args: {T: two}", 'method_args.T="two": input should be a valid number'),
        ("method_args.kd.T: 2", "unknown key 'method_args.kd' (known: "),
        ("optim.lr: fast", 'optim.lr="fast": input should be a valid number'),
    ],
)
def test_a_config_file_with_a_wrong_value_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    [line] = problems("method=kd", f"config={file}")
    assert line.startswith(f"{file}: {message}")
    [line] = problems("method=kd", f"config={file}", "optim.lr=slow", "method_args.T=two", "method_args.kd=1")[-1:]
    assert line.startswith('optim.lr="slow": ')


@pytest.mark.parametrize("text", ["optim: {lr: [", "a: b: c", "a: \x07"])
def test_faulty_yaml_is_placed_in_its_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    [line] = problems(f"config={file}")
    assert line.startswith(f"cannot read {file}: ") and "string>" not in line and ("line" in line or "position" in line)


def test_a_checkpoint_that_is_not_there(capsys: Capture) -> None:
    for entry in (evaluate, export):
        code, _, err = cli.call(entry, ["checkpoint=runs/nothere", "data.workers=-1"], capsys)
        told = err.splitlines()
        assert (code, told[0]) == (2, "error: checkpoint=runs/nothere: no such file or folder")
        assert len(told) == 2 and told[1].startswith("error: data.workers=-1: ")
    for none in ("none", "null"):
        assert "no such file" not in cli.call(evaluate, [f"checkpoint={none}"], capsys)[2]


def test_a_speed_that_was_not_measured_is_a_dash() -> None:
    figures = {"terms": {}, "train_loss": 1.0, "train_top1": 1.0, "images_per_second": 0.0, "data_wait": 0.0}
    assert " - images/s wait 0%" in figures_text(figures)
    assert " 12 images/s wait" in figures_text(figures | {"images_per_second": 12.4})
    summary = {"top1_last": 1.0, "top1_best": 1.0, "best_epoch": 1, "select_on": "test", "images_per_second": 0.0}
    assert "; - images/s; files in x" in finish_text(summary, Path("x"))
