"""Bad configuration or input: one clear line each, exit code 2, no traceback, nothing left behind."""

import os
import pickle
import tarfile
from pathlib import Path

import cli
import mini_cifar
import pytest
import torch

from pipeline import evaluate, train
from pipeline.models import MODELS

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


def refused(capture: Capture, words: list[str], *messages: str) -> str:
    """The error text of a training that does not start."""
    code, out, err = cli.call(train, words, capture)
    assert code == 2, out + err
    assert "Traceback" not in err
    assert all(line.startswith("error: ") for line in err.splitlines()), err
    for message in messages:
        assert message in err
    return err


def base(data: Path, runs: Path, *more: str) -> list[str]:
    return [
        "dataset=cifar100",
        f"data.root={data}",
        f"run.dir={runs}",
        "runtime.device=cpu",
        "data.batch_size=32",
        *more,
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model=resnet21"], "unknown model 'resnet21'; did you mean 'resnet20'?"),
        (["model=resnet8", "method=fitnt"], "unknown method 'fitnt'; did you mean 'fitnet'?"),
        (["pair=resnet56-resnet21"], "unknown pair 'resnet56-resnet21'; did you mean 'resnet56-resnet20'?"),
        (["model=resnet8", "optim.lrate=1"], "unknown key 'optim.lrate'"),
        (["model=resnet8", "data.batch_size=many"], 'data.batch_size="many": input should be a valid integer'),
        ([], "no student: give pair=TEACHER-STUDENT, or model="),
        (["model=resnet8", "method=kd"], "needs a teacher"),
        (["pair=resnet20-resnet8", "method=kd"], "needs teacher.checkpoint=FILE with weights of resnet20"),
        (["pair=resnet20-resnet8", "method=kd", "teacher.checkpoint=/nowhere/x.pth"], "/nowhere/x.pth"),
        (["model=resnet8", "variant=mine"], "has no variant 'mine'"),
        (["model=resnet50"], "means two networks here: give ResNet50"),
        (["model=ResNet34"], "did you mean 'imagenet/resnet34'?"),
        (["model=timm:resnet9999"], "unknown model 'timm:resnet9999'"),
        (["model=resnet20", "student.block=amb"], "unknown block 'amb'; did you mean 'ambb'?"),
        (["model=wrn_16_2", "student.block=ambb"], "model wrn_16_2 has no option 'block'"),
        (["model=resnet8", "student.args.width=2"], "has no option 'width'"),
        (["model=vgg8", "data.image_size=4", "data.padding=0"], "vgg8 cannot take images of 4 x 4 pixels"),
        (["pair=resnet56-resnet20", "method=kd", "teacher.checkpoint=auto", "teacher.root=/nowhere"], "cifar_teachers"),
        (["model=resnet8", "data.val_split=200", "select_on=val"], "leaves nothing of 200 training images"),
    ],
)  # fmt: skip
def test_configuration(more: list[str], message: str, data: Path, tmp_path: Path, capsys: Capture) -> None:
    refused(capsys, base(data, tmp_path / "runs", *more), message)
    assert not (tmp_path / "runs").exists()


def test_missing_data(tmp_path: Path, capsys: Capture) -> None:
    refused(capsys, base(tmp_path, tmp_path / "runs", "model=resnet8"), "cifar-100-python")


def test_archive_with_a_wrong_checksum(tmp_path: Path, capsys: Capture) -> None:
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(__file__, "cifar-100-python/train")
    refused(capsys, base(tmp_path, tmp_path / "runs", "model=resnet8"), "eb9058c3a382ffc7106e4002c42a8d85")


class Trap:
    """Pickles into a call."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


def test_pickles_that_want_to_run_code(data: Path, tmp_path: Path, capsys: Capture) -> None:
    sprung = tmp_path / "sprung"
    evil = mini_cifar.write(tmp_path / "evil")
    (evil / "cifar-100-python" / "train").write_bytes(pickle.dumps({"data": Trap(sprung)}))
    refused(capsys, base(evil, tmp_path / "runs", "model=resnet8"), "refused")
    checkpoint = tmp_path / "evil.pth"
    torch.save({"model": Trap(sprung)}, checkpoint)
    refused(capsys, base(data, tmp_path / "runs", "model=resnet8", f"student.checkpoint={checkpoint}"), "evil.pth")
    assert not sprung.exists()


def test_checkpoints_that_do_not_fit(data: Path, tmp_path: Path, capsys: Capture) -> None:
    other, small = tmp_path / "vgg.pth", tmp_path / "ten.pth"
    torch.save({"model": MODELS.get("vgg8")(num_classes=100).state_dict()}, other)
    torch.save({"model": MODELS.get("resnet8")(num_classes=10).state_dict()}, small)
    text = refused(capsys, base(data, tmp_path / "runs", "model=resnet8", f"student.checkpoint={other}"))
    assert "56 missing keys (conv1.weight" in text and "37 unexpected keys (block0.0.weight" in text
    refused(capsys, base(data, tmp_path / "runs", "model=resnet8", f"student.checkpoint={small}"), "10 classes", "100")
    words = ["dataset=cifar100", f"data.root={data}", "model=resnet8", f"checkpoint={small}", "runtime.device=cpu"]
    code, _, err = cli.call(evaluate, words, capsys)
    assert code == 2 and "10 classes" in err


def test_a_batch_smaller_than_the_ranks(data: Path, tmp_path: Path) -> None:
    import ranks

    words = base(data, tmp_path / "runs", "model=resnet8", "data.batch_size=1", "log.tensorboard=false")
    codes, text = ranks.run_train(words, 2, tmp_path / "log")
    assert codes == [2, 2]
    assert text.count("error:") == 1 and "2 ranks" in text and "Traceback" not in text


def test_a_folder_that_holds_another_run(data: Path, tmp_path: Path, capsys: Capture) -> None:
    words = base(data, tmp_path / "runs", "model=resnet8", "run.limit_steps=1", "run.name=x", "log.tensorboard=false")
    assert cli.call(train, words, capsys)[0] == 0
    refused(capsys, [*words, "optim.lr=0.5"], "optim.lr 0.05 there, 0.5 here", "run.resume=never")
    code, out, _ = cli.call(train, [*words, "optim.lr=0.5", "run.resume=never"], capsys)
    assert code == 0 and "set aside" in out
    assert (tmp_path / "runs" / "x.old-1" / "summary.json").exists()


def test_no_cuda_is_said(data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = base(data, tmp_path / "runs", "model=resnet8", "runtime.device=cuda")
    refused(capsys, words, "no CUDA device")


def test_variant_help(capsys: Capture) -> None:
    code, out, _ = cli.call(train, ["dataset=cifar100", "pair=resnet20-resnet8", "method=kd", "variant=help"], capsys)
    assert code == 0 and out.startswith("paper: ")


@pytest.mark.parametrize("module", [train, evaluate])
def test_help(module: object, capsys: Capture) -> None:
    code, out, _ = cli.call(module, ["--help"], capsys)  # type: ignore[arg-type]
    assert code == 0 and "data.batch_size=64" in out
