"""Files of a run say what their network is: copied anywhere, they predict as they did; old ones go on as they did."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from mini_cifar import write
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline import evaluate, export, train
from pipeline.weights import read_origin

Capture = pytest.CaptureFixture[str]
HERE = ["runtime.device=cpu", "log.tensorboard=false", "optim.epochs=1", "run.limit_steps=2", "data.batch_size=8"]
TAUGHT = ["dataset=cifar100", "model=resnet8", "teacher.model=resnet8", "teacher.checkpoint=none"]
OTHER = ["data.mean=[0.1,0.2,0.3]", "data.std=[0.9,0.8,0.7]"]
FILES = ("student.safetensors", "checkpoints/last.pt", "checkpoints/best.pt")
Scorer = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """simkd, simkd+kd, and plain, each of two steps, all normalised otherwise than their data set."""
    folder = tmp_path_factory.mktemp("runs")
    root = write(folder / "data")
    for name, words in {
        "simkd": ["method=simkd", "method_args.factor=4"],
        "both": ["method=kd+simkd", "method_args.simkd.factor=8"],
        "plain": ["method=vanilla"],
    }.items():
        argv = [*TAUGHT, *HERE, *OTHER, *words, f"data.root={root}", f"run.dir={folder}", f"run.name={name}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["train", *argv])
            train.main(argv)
    return folder


@pytest.fixture
def score(runs: Path, capsys: Capture) -> Scorer:
    def run(*words: object) -> tuple[dict[str, Any], str]:
        here = [f"data.root={runs / 'data'}", "runtime.device=cpu"]
        code, out, err = cli.call(evaluate, [*map(str, words), *here], capsys)
        assert code == 0, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return {key: found[key] for key in ("correct_top1", "correct_top5", "loss")}, out

    return run


def without_description(run: Path, to: Path) -> Path:
    """The run folder as 3f763ae wrote it."""
    shutil.copytree(run, to)
    (to / "description.json").unlink()
    with safe_open(to / FILES[0], framework="pt") as content:
        names = json.loads(content.metadata()["stillhouse"])
    names = {key: names[key] for key in ("dataset", "method", "student", "seed")}
    save_file(load_file(to / FILES[0]), to / FILES[0], metadata={"stillhouse": json.dumps(names)})
    for name in FILES[1:]:
        state = torch.load(to / name, weights_only=True)
        del state["description"]
        torch.save(state, to / name)
    return to


@pytest.mark.parametrize("name", ("simkd", "both", "plain"))
def test_a_file_that_is_copied_elsewhere_evaluates_as_its_run(
    name: str, runs: Path, tmp_path: Path, score: Scorer
) -> None:
    (line,) = (runs / name / "metrics.jsonl").read_text().splitlines()
    for number, file in enumerate(FILES):
        copy = tmp_path / f"{number}-{Path(file).name}"
        shutil.copy(runs / name / file, copy)
        found, said = score(f"checkpoint={copy}")
        assert found["loss"] == pytest.approx(json.loads(line)["test_loss"], rel=1e-6)
        assert "mean [0.1, 0.2, 0.3]" in said and "resnet8" in said and "100 classes" in said


@pytest.mark.parametrize("to", ("safetensors", "state_dict"))
def test_an_exported_file_evaluates_by_itself(
    to: str, runs: Path, tmp_path: Path, score: Scorer, capsys: Capture
) -> None:
    out = tmp_path / "served.bin"
    assert cli.call(export, [f"checkpoint={runs / 'both'}", f"to={to}", f"out={out}"], capsys)[0] == 0
    assert score(f"checkpoint={out}")[0] == pytest.approx(score(f"checkpoint={runs / 'both'}")[0])
    again = tmp_path / "again.bin"  # from the exported file alone
    assert cli.call(export, [f"checkpoint={out}", f"to={to}", f"out={again}"], capsys)[0] == 0
    assert read_origin(again)["description"] == read_origin(out)["description"]


def test_formats_for_others_carry_the_description(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    import onnx

    script, graph = tmp_path / "x.pt", tmp_path / "x.onnx"
    for out, to in ((script, "torchscript"), (graph, "onnx")):
        assert cli.call(export, [f"checkpoint={runs / 'plain'}", f"to={to}", f"out={out}"], capsys)[0] == 0
    extra = {"stillhouse.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(str(script), _extra_files=extra)
    props = {one.key: one.value for one in onnx.load(str(graph)).metadata_props}
    for text in (extra["stillhouse.json"], props["stillhouse"]):
        said = json.loads(text)["description"]
        assert (said["model"], said["num_classes"], said["class_names"][0]) == ("resnet8", 100, "class00")
        assert said["data"]["mean"] == [0.1, 0.2, 0.3] and said["data"]["interpolation"] == "bilinear"


def test_keys_of_the_command_line_win_and_it_is_said(runs: Path, tmp_path: Path, score: Scorer) -> None:
    copy = tmp_path / "x.safetensors"
    shutil.copy(runs / "plain" / FILES[0], copy)
    own, _ = score(f"checkpoint={copy}")
    found, said = score(f"checkpoint={copy}", "data.mean=[0.5,0.5,0.5]")
    assert found["loss"] != own["loss"]
    assert "x.safetensors says data.mean=[0.1, 0.2, 0.3]; [0.5, 0.5, 0.5] is used" in said
    (tmp_path / "keys.yaml").write_text("data: {mean: [0.5, 0.5, 0.5]}\n")
    assert score(f"checkpoint={copy}", f"config={tmp_path / 'keys.yaml'}")[0] == found


def test_options_of_the_network_come_along_where_its_model_is_named(
    runs: Path, tmp_path: Path, score: Scorer, capsys: Capture
) -> None:
    words = ["dataset=cifar100", "model=resnet8", "student.args.blurpool=true", f"data.root={runs / 'data'}"]
    assert cli.call(train, [*words, *HERE, f"run.dir={tmp_path}", "run.name=x"], capsys)[0] == 0
    copy = tmp_path / "x.safetensors"
    shutil.copy(tmp_path / "x" / FILES[0], copy)
    own, _ = score(f"checkpoint={copy}")
    assert score(f"checkpoint={copy}", "model=ResNet8")[0] == own
    found, said = score(f"checkpoint={copy}", "student.args.blurpool=false")
    assert found["loss"] != own["loss"] and "x.safetensors says student.args.blurpool=true; false is used" in said


def test_the_checkpoint_is_found_however_its_word_is_written(runs: Path, tmp_path: Path, score: Scorer) -> None:
    """Else the data set's mean and std would be used, without a word."""
    copy = tmp_path / "x.safetensors"
    shutil.copy(runs / "plain" / FILES[0], copy)
    own, _ = score(f"checkpoint={copy}", "model=resnet8")
    assert score(f'checkpoint="{copy}"', "model=resnet8")[0] == own
    assert score(f"student={{model: resnet8, checkpoint: {copy}}}")[0] == own
    assert "says data.mean=" in score(f"checkpoint={copy}", "data={mean: [0.5, 0.5, 0.5]}")[1]


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: Capture) -> None:
    gone = tmp_path / "gone.pt"
    code, _, err = cli.call(evaluate, ["dataset=cifar100", f"checkpoint={gone}"], capsys)
    assert (code, err) == (2, f"error: {gone}: cannot be read (No such file or directory)\n")


def test_the_run_folder_says_it_with_the_sum_of_its_file(runs: Path) -> None:
    import hashlib

    found = json.loads((runs / "both" / "description.json").read_text())
    assert found["description"] == read_origin(runs / "both")["description"]
    assert found["description"]["method_args"]["simkd"] == {"factor": 8, "feat_weight": 1.0, "ce_weight": 0.0}
    digest = hashlib.sha256((runs / "both" / FILES[0]).read_bytes()).hexdigest()
    assert found["sha256"] == {FILES[0]: digest}


@pytest.mark.parametrize("name", ("simkd", "both"))
def test_an_old_run_folder_goes_on_and_its_file_alone_is_refused(
    name: str, runs: Path, tmp_path: Path, score: Scorer, capsys: Capture
) -> None:
    old = without_description(runs / name, tmp_path / "old")
    whole = score(f"checkpoint={runs / name}")[0]
    for number, file in enumerate(("", *FILES)):
        assert score(f"checkpoint={old / file}")[0] == whole
        if file:  # its factor is not the method's own, and nobody says it any more
            copy = tmp_path / f"{number}-{Path(file).name}"
            shutil.copy(old / file, copy)
            words = [f"checkpoint={copy}", "dataset=cifar100", "model=resnet8", "runtime.device=cpu"]
            words.append(f"data.root={runs / 'data'}")
            code, _, err = cli.call(evaluate, words, capsys)
            assert code == 2 and "holds what a method predicts with" in err and err.count("\n") == 1


def test_an_old_file_is_recognised_where_its_arguments_are_the_methods_own(
    runs: Path, tmp_path: Path, score: Scorer, capsys: Capture
) -> None:
    words = [*TAUGHT, *HERE, "method=simkd", f"data.root={runs / 'data'}", f"run.dir={tmp_path}", "run.name=x"]
    assert cli.call(train, words, capsys)[0] == 0
    old = without_description(tmp_path / "x", tmp_path / "old")
    for file in FILES:
        copy = tmp_path / Path(file).name
        shutil.copy(old / file, copy)
        found = score(f"checkpoint={copy}", "dataset=cifar100", "model=resnet8")[0]
        assert found == score(f"checkpoint={tmp_path / 'x'}")[0]


def test_a_predicting_run_is_no_start_for_a_student(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    for file in (runs / "both", runs / "simkd" / FILES[1], without_description(runs / "both", tmp_path / "o")):
        words = ["dataset=cifar100", "model=resnet8", *HERE, f"run.dir={tmp_path}", f"data.root={runs / 'data'}"]
        words.append(f"student.checkpoint={file}")
        code, _, err = cli.call(train, words, capsys)
        assert code == 2 and err.startswith("error: student.checkpoint=") and err.count("\n") == 1


def test_a_start_from_a_file_says_what_is_other_than_there(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = tmp_path / "x.safetensors"
    shutil.copy(runs / "plain" / FILES[0], copy)
    words = ["dataset=cifar100", f"data.root={runs / 'data'}", "model=resnet8", f"student.checkpoint={copy}"]
    words += [*HERE, f"run.dir={tmp_path}"]
    code, out, _ = cli.call(
        train, [*words, "run.name=a", "student.args.blurpool=true", "data.mean=[0.5,0.5,0.5]"], capsys
    )
    assert code == 0 and "x.safetensors says data.mean=[0.1, 0.2, 0.3]; the student goes on with [0.5, 0.5, 0.5]" in out
    assert "x.safetensors says student.args.blurpool=null; the student goes on with true" in out
