"""A teacher sees and predicts as its file says: live, from a cache, and in runs that have begun before."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli
import pytest
import safetensors.torch
import torch
from mini_cifar import write
from omegaconf import OmegaConf

from data_prep import cache_teacher
from pipeline import evaluate, export, train
from pipeline.models.external import build_external
from pipeline.run_folder.checkpoint_file import seal, unseal

Capture = pytest.CaptureFixture[str]
HERE = ["runtime.device=cpu", "log.tensorboard=false", "optim.epochs=1", "run.limit_steps=2", "data.batch_size=8"]
OTHER = ["data.mean=[0.1,0.2,0.3]", "data.std=[0.9,0.8,0.7]"]
OLD = {"model", "distiller", "updater", "ranks", "format", "position", "clock", "resumed", "wall_seconds"}
STUDENT = ["dataset=cifar100", "model=resnet8", "teacher.model=resnet8", "method=kd", *HERE]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """plain and simkd, normalised otherwise than their data set; data: the set."""
    folder = tmp_path_factory.mktemp("teachers")
    root = write(folder / "data")
    for name, words in {"plain": ["method=vanilla"], "simkd": ["method=simkd", "teacher.checkpoint=none"]}.items():
        argv = ["dataset=cifar100", "model=resnet8", "teacher.model=resnet8", *HERE, *OTHER, *words]
        train.main([*argv, f"data.root={root}", f"run.dir={folder}", f"run.name={name}"])
    yield folder


def run(words: list[str], teachers: Path, capsys: Capture, module: Any = train) -> tuple[int, str, str]:
    return cli.call(module, [*STUDENT, f"data.root={teachers / 'data'}", *words], capsys)


def kd_term(folder: Path) -> float:
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(line)["terms"]["kd"])


def recorded(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))["teacher"]  # type: ignore
    return found


@pytest.mark.parametrize("old", (False, True))
def test_a_run_folder_brings_its_normalisation(old: bool, teachers: Path, tmp_path: Path, capsys: Capture) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(teachers / "plain", teacher)
    if old:  # of 3f763ae: the folder says it, the file does not
        state = safetensors.torch.load_file(teacher / "student.safetensors")
        safetensors.torch.save_file(state, teacher / "student.safetensors")
    words = [f"teacher.checkpoint={teacher}", f"run.dir={tmp_path}"]
    code, out, err = run([*words, "run.name=own"], teachers, capsys)
    assert code == 0 and "says mean [0.1, 0.2, 0.3], std [0.9, 0.8, 0.7], image_size 32" in out, err
    assert recorded(tmp_path / "own")["mean"] == [0.1, 0.2, 0.3] and recorded(tmp_path / "own")["image_size"] is None
    given = ["teacher.mean=[0.1,0.2,0.3]", "teacher.std=[0.9,0.8,0.7]", "run.name=said"]
    assert run([*words, *given], teachers, capsys)[0] == 0
    assert kd_term(tmp_path / "own") == kd_term(tmp_path / "said")
    code, out, _ = run([*words, "teacher.mean=[0.5,0.5,0.5]", "run.name=wins"], teachers, capsys)
    assert code == 0 and "teacher.mean=[0.5, 0.5, 0.5] is given and used" in out
    assert kd_term(tmp_path / "own") != kd_term(tmp_path / "wins")


def test_a_file_alone_brings_it_too_and_its_size(teachers: Path, tmp_path: Path, capsys: Capture) -> None:
    for file in ("student.safetensors", "checkpoints/last.pt"):
        copy = tmp_path / Path(file).name
        shutil.copy(teachers / "plain" / file, copy)
        words = [f"teacher.checkpoint={copy}", f"run.dir={tmp_path}", f"run.name={copy.stem}", "data.image_size=40"]
        assert run(words, teachers, capsys)[0] == 0
        found = recorded(tmp_path / copy.stem)
        assert (found["mean"], found["image_size"], found["interpolation"]) == ([0.1, 0.2, 0.3], 32, "bilinear")


def test_a_run_that_has_begun_keeps_what_it_recorded(teachers: Path, tmp_path: Path, capsys: Capture) -> None:
    words = [f"teacher.checkpoint={teachers / 'plain'}", f"run.dir={tmp_path}", "run.name=x", "run.limit_steps=1"]
    values = [
        "teacher.mean=[0.5071,0.4867,0.4408]",
        "teacher.std=[0.2675,0.2565,0.2761]",
    ]
    assert run([*words, *values], teachers, capsys)[0] == 0
    config = OmegaConf.load(tmp_path / "x" / "config.yaml")
    config.teacher.mean = config.teacher.std = None
    (tmp_path / "x" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (tmp_path / "x" / "description.json").unlink()
    last = tmp_path / "x" / "checkpoints" / "last.pt"
    last.write_bytes(seal({key: value for key, value in unseal(last).items() if key in OLD}))
    code, out, err = run([*words[:2], "run.name=x"], teachers, capsys)
    assert code == 0 and "resumed at step 1" in out and recorded(tmp_path / "x")["mean"] is None, err
    assert run([*words[:2], "run.name=whole", *values], teachers, capsys)[0] == 0
    assert kd_term(tmp_path / "x") == kd_term(tmp_path / "whole")


def test_a_predicting_run_teaches_with_all_of_it(teachers: Path, tmp_path: Path, capsys: Capture) -> None:
    terms = []
    for number, file in enumerate(("student.safetensors", "checkpoints/best.pt", "")):
        copy = tmp_path / f"{number}-{Path(file).name}" if file else teachers / "simkd"
        if file:
            shutil.copy(teachers / "simkd" / file, copy)
        words = [f"teacher.checkpoint={copy}", f"run.dir={tmp_path}", f"run.name={number}"]
        code, out, err = run(words, teachers, capsys)
        assert code == 0 and "predicts by simkd" in out, err
        terms.append(kd_term(tmp_path / str(number)))
    assert terms[0] == terms[1] == terms[2]
    words = [f"teacher.checkpoint={teachers / 'plain'}", f"run.dir={tmp_path}", "run.name=plain"]
    assert run(words, teachers, capsys)[0] == 0 and kd_term(tmp_path / "plain") != terms[0]
    # A cache of it gives the same numbers, with and without the checkpoint beside it.
    checkpoint, out = f"teacher.checkpoint={teachers / 'simkd'}", tmp_path / "cache"
    code, said, err = run([checkpoint, f"cache.out={out}", "cache.views=1"], teachers, capsys, cache_teacher)
    assert code == 0 and "predicts by simkd" in said, err
    for number, more in enumerate(([checkpoint], [])):
        words = ["teacher.source=cached", f"teacher.cache={out}", *more, f"run.dir={tmp_path}", f"run.name=c{number}"]
        code, _, err = run(words, teachers, capsys)
        assert code == 0 and kd_term(tmp_path / f"c{number}") == pytest.approx(terms[0], rel=1e-5), err


@pytest.mark.parametrize("method", ("crd", "simkd", "catkd", "srrl"))
def test_what_such_a_teacher_has_not_is_refused(method: str, teachers: Path, tmp_path: Path, capsys: Capture) -> None:
    words = [f"teacher.checkpoint={teachers / 'simkd'}", f"run.dir={tmp_path}", f"method={method}"]
    code, _, err = run(words, teachers, capsys)
    assert code == 2 and err.startswith(f"error: method {method} wants") and err.count("\n") == 1


def test_classes_in_another_order_are_refused(teachers: Path, tmp_path: Path, capsys: Capture) -> None:
    state = torch.load(teachers / "plain" / "checkpoints" / "best.pt", weights_only=True)
    names = state["description"]["class_names"]
    names[3], names[4] = names[4], names[3]
    torch.save(state, tmp_path / "x.pt")
    code, _, err = run([f"teacher.checkpoint={tmp_path / 'x.pt'}", f"run.dir={tmp_path}"], teachers, capsys)
    told = "3 is 'class04' there, 'class03' here, 4 is 'class03' there"
    assert code == 2 and "classes in another order" in err and told in err
    words = [f"checkpoint={tmp_path / 'x.pt'}", f"data.root={teachers / 'data'}", "runtime.device=cpu"]
    code, _, err = cli.call(evaluate, words, capsys)
    assert code == 2 and "classes in another order" in err


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder with weights of 1,000 classes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = build_external("timm:test_resnet", num_classes=1000).state_dict()
    safetensors.torch.save_file(state, folder / "test_resnet.r160_in1k.safetensors")
    return folder


@pytest.mark.slow
def test_an_untrained_classifier_of_a_library_teaches_nothing(
    hub: Path, teachers: Path, tmp_path: Path, capsys: Capture
) -> None:
    auto = ["teacher.model=timm:test_resnet", "teacher.checkpoint=auto", f"run.dir={tmp_path}"]
    at = ["method=at", "variant=repdistiller"]
    for words in (["method=kd"], [*at, "method_args.kd_weight=1"], ["method=simkd"]):
        code, _, err = run([*auto, *words], teachers, capsys)
        assert code == 2 and "its classifier is untrained" in err and err.count("\n") == 1, err
    code, out, err = run([*auto, "method=at", "variant=repdistiller"], teachers, capsys)  # reads maps only
    assert code == 0 and "mean [0.5, 0.5, 0.5]" in out, err
    cache = ["method=kd", f"cache.out={tmp_path / 'cache'}", "cache.views=1"]
    code, _, err = run([*auto, *cache], teachers, capsys, cache_teacher)
    assert code == 2 and "a cache holds logits" in err
    words = ["model=timm:test_resnet", "checkpoint=auto", "dataset=cifar100"]
    for module, more in ((evaluate, [f"data.root={teachers / 'data'}"]), (export, [f"out={tmp_path / 'x'}"])):
        code, _, err = cli.call(module, [*words, *more], capsys)
        assert code == 2 and "its classifier is untrained" in err
    # A student's is trained: said, not refused.
    student = ["model=timm:test_resnet", "student.checkpoint=auto", "method=vanilla", f"run.dir={tmp_path}"]
    code, out, err = run(student, teachers, capsys)
    assert code == 0 and "its classifier is untrained at first" in out, err


@pytest.mark.slow
def test_a_librarys_own_values_are_used_and_files_are_warned_of(
    hub: Path, teachers: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.builders.networks.published_classes", lambda _: 100)
    words = ["model=timm:test_resnet", "dataset=cifar100", f"data.root={teachers / 'data'}", "runtime.device=cpu"]
    code, out, err = cli.call(evaluate, [*words, "checkpoint=auto"], capsys)
    assert code == 0 and "own data.mean=[0.5, 0.5, 0.5], data.std=[0.5, 0.5, 0.5], data.image_size=160" in out, err
    code, out, _ = cli.call(evaluate, [*words, "checkpoint=auto", "data.mean=[0.1,0.2,0.3]"], capsys)
    assert code == 0 and "want data.mean=[0.5, 0.5, 0.5]; [0.1, 0.2, 0.3] is used" in out
    state = build_external("timm:test_resnet", num_classes=100).state_dict()
    torch.save(state, tmp_path / "x.pth")
    code, out, _ = cli.call(evaluate, [*words, f"checkpoint={tmp_path / 'x.pth'}"], capsys)
    assert code == 0 and "the library's weights of timm:test_resnet want data.mean=[0.5, 0.5, 0.5]" in out
    student = ["teacher.model=timm:test_resnet", f"teacher.checkpoint={tmp_path / 'x.pth'}", f"run.dir={tmp_path}"]
    code, out, err = run(student, teachers, capsys)
    assert code == 0 and "the library's weights of timm:test_resnet want mean [0.5, 0.5, 0.5]" in out, err
