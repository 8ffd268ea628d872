"""The keys that choose among the weights of a file, as a user types them; and runs that began before there were any."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from cli import call
from mini_cifar import write

from pipeline import evaluate, export, train
from pipeline.builders.names import train_config
from pipeline.config import TrainConfig
from pipeline.models.build import build
from pipeline.run_folder.earlier_defaults import as_recorded
from pipeline.run_folder.folder import RunDir
from pipeline.weights import load_weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and with weights of resnet8 that are all zero but the classifier's bias: class 1, class 2."""
    folder = write(tmp_path_factory.mktemp("weights"), train=40, test=40, classes=4)
    for number in (1, 2):
        state = {key: torch.zeros_like(value) for key, value in build("resnet8", num_classes=100).state_dict().items()}
        state["fc.bias"][number] = 1
        torch.save(state, folder / f"{number}.pth")
    one, two = (torch.load(folder / f"{number}.pth") for number in (1, 2))
    torch.save({"state_dict": one, "state_dict_ema": two, "epoch": 3}, folder / "timm.pth")
    torch.save({"state_dict": {f"model.{key}": value for key, value in one.items()}}, folder / "lightning.ckpt")
    torch.save({"a": one, "b": two}, folder / "either.pth")
    return folder


def words(here: Path, *more: str) -> list[str]:
    return ["dataset=cifar100", f"data.root={here}", "model=resnet8", *more]


def counted(here: Path, capsys: Capture, *more: str) -> tuple[int, str]:
    """(right answers, what was printed)."""
    code, out, err = call(evaluate, words(here, *more), capsys)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])["correct_top1"], out


def test_evaluate_says_and_chooses(here: Path, capsys: Capture) -> None:
    (one, _), (two, _) = (counted(here, capsys, f"checkpoint={here}/{number}.pth") for number in (1, 2))
    assert one != two
    file = f"checkpoint={here}/timm.pth"
    right, said = counted(here, capsys, file)
    assert right == two and "weights state_dict_ema, not state_dict (student.weights=state_dict takes those)" in said
    for key in ("weights", "student.weights"):
        assert counted(here, capsys, file, f"{key}=state_dict")[0] == one
        assert counted(here, capsys, file, f"{key}=plain")[0] == one
        assert counted(here, capsys, file, f"{key}=ema")[0] == two
    assert counted(here, capsys, f"checkpoint={here}/lightning.ckpt")[0] == one
    assert counted(here, capsys, f"checkpoint={here}/either.pth", "weights=b")[0] == two


def test_export_chooses(here: Path, capsys: Capture) -> None:
    for name, number in (("state_dict", 1), ("ema", 2)):
        out = here / f"{name}.safetensors"
        more = (f"checkpoint={here}/timm.pth", f"weights={name}", f"out={out}")
        assert call(export, ["dataset=cifar100", "model=resnet8", *more], capsys)[0] == 0
        expected = torch.load(here / f"{number}.pth")
        found = load_weights(out, expected=expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_refusals_name_the_key(here: Path, tmp_path: Path, capsys: Capture) -> None:
    run = [f"run.dir={tmp_path}", "method=kd", "teacher.model=resnet8"]
    cases = {
        "teacher.weights=NAME chooses": [*run, f"teacher.checkpoint={here}/either.pth"],
        "holds no teacher.weights=x": [*run, f"teacher.checkpoint={here}/timm.pth", "teacher.weights=x"],
        "student.weights=NAME chooses": [*run, "teacher.checkpoint=none", f"student.checkpoint={here}/either.pth"],
        "teacher.weights=ema: no file is read": [*run, "teacher.checkpoint=none", "teacher.weights=ema"],
        "student.weights=ema: no file is read": [*run, "teacher.checkpoint=none", "student.weights=ema"],
    }
    for reason, more in cases.items():
        code, _, err = call(train, words(here, *more), capsys)
        assert code == 2 and reason in err and err.count("\n") == 1, err


def config_of(here: Path, *more: str) -> TrainConfig:
    return train_config(words(here, f"teacher.checkpoint={here}/timm.pth", *more))


def test_a_run_of_before_goes_on_with_what_it_had(here: Path, tmp_path: Path) -> None:
    run, config = RunDir(tmp_path / "run"), config_of(here)
    run.folder.mkdir()
    assert as_recorded(config, run.folder) == config
    run.claim(config)
    assert as_recorded(config, run.folder) == config  # begun by this version: averaged ones
    keys = yaml.safe_load(run.config.read_text())
    for section in ("teacher", "student"):
        del keys[section]["weights"]
    run.config.write_text(yaml.safe_dump(keys))
    for _ in range(2):  # the second time it is recorded
        old = as_recorded(config, run.folder)
        assert old.teacher.weights == old.student.weights == "plain"
        run.claim(old)
    assert as_recorded(config_of(here, "teacher.weights=ema"), run.folder).teacher.weights == "ema"


def test_what_names_a_run_elsewhere_stays(here: Path) -> None:
    config = config_of(here)
    assert config.fingerprint() != config_of(here, "teacher.weights=ema").fingerprint()
    assert "weights" in config.numbers()["teacher"]
