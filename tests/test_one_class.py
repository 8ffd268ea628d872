"""All images of one class: accuracy would be 100 % whatever is learnt. Said, and refused where it is asked for."""

import pickle
from pathlib import Path

import cli
import jpeg_files
import mini_cifar
import pytest
import torch

from data_prep import cache_teacher, write_beton
from data_prep.check_tree import check_tree
from pipeline import evaluate, train
from pipeline.contracts import InputError
from pipeline.models import MODELS

Capture = pytest.CaptureFixture[str]
BASE = ["runtime.device=cpu", "data.image_size=16", "data.resize=16", "data.workers=0", "log.tensorboard=false"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = jpeg_files.tree(tmp_path / "tree", classes=1)
    (root / "wnids.txt").write_text("n00000001")
    return root


@pytest.mark.parametrize("name", ["folder", "imagenet", "tiny_imagenet"])
def test_folders(name: str, tree: Path, tmp_path: Path, capsys: Capture) -> None:
    words = [f"dataset={name}", f"data.root={tree}", *BASE]
    runs = [f"run.dir={tmp_path / 'runs'}"]
    teaching = ["teacher.model=resnet8", "teacher.checkpoint=none", f"cache.out={tmp_path / 'cache'}"]
    weights = tmp_path / "x.pth"
    torch.save(MODELS.get("resnet8")(num_classes=1).state_dict(), weights)
    for module, more in (
        (train, ["model=resnet8", *runs]),
        (cache_teacher, [*teaching, "cache.views=1"]),
        (evaluate, ["model=resnet8", f"checkpoint={weights}"]),
    ):
        given = [word for word in words if module is not evaluate or not word.startswith("log.")]
        code, out, err = cli.call(module, [*given, *more], capsys)
        assert code == 2, out + err
        assert err.startswith("error: ") and err.count("\n") == 1
        assert "all images are of one class ('n00000001')" in err and "data.root" in err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()


def test_a_labelled_array(tmp_path: Path, capsys: Capture) -> None:
    root = mini_cifar.write(tmp_path / "data")
    for part in ("train", "test"):
        path = root / "cifar-100-python" / part
        record = pickle.loads(path.read_bytes())
        record["fine_labels"] = [7] * len(record["fine_labels"])
        path.write_bytes(pickle.dumps(record))
    words = ["dataset=cifar100", f"data.root={root}", "model=resnet8", f"run.dir={tmp_path / 'runs'}", BASE[0]]
    code, _, err = cli.call(train, words, capsys)
    assert code == 2 and "cifar100/train: all images are of one class ('class07')" in err
    weights = tmp_path / "x.pth"
    torch.save(MODELS.get("resnet8")(num_classes=100).state_dict(), weights)
    code, _, err = cli.call(evaluate, [*words[:3], f"checkpoint={weights}", BASE[0]], capsys)
    assert code == 0 and "note: cifar100/test: all images are of class 'class07': accuracy is of this one class" in err


def test_preparations_say_it(tree: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    line = check_tree("imagenet", tree, {"train": 4, "test": 2}, 1)
    assert "imagenet/train: all images are of one class ('n00000001'): no run can be trained on it" in line

    def stop(*_: object, **__: object) -> None:
        raise InputError("stop")

    monkeypatch.setattr(write_beton, "write_beton", stop)
    words = ["dataset=imagenet", f"data.root={tree}", "split=train", f"out={tmp_path / 'x.beton'}"]
    code, _, err = cli.call(write_beton, words, capsys)
    assert code == 2 and "error: stop" in err and "note: imagenet/train: all images are of one class" in err


def test_two_classes_are_enough(tmp_path: Path) -> None:
    line = check_tree("imagenet", jpeg_files.tree(tmp_path, classes=2), {"train": 8, "test": 4}, 1)
    assert "one class" not in line
