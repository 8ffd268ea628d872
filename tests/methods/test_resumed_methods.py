"""Methods with banks, thresholds, stages or two gradients: stopped inside an epoch and gone on with, bit for bit."""

from pathlib import Path

import cli
import pytest
import torch
from methods.lab import METHODS

from pipeline import train

Capture = pytest.CaptureFixture[str]
QUICK = ("crd", "energykd", "ab", "kd+dot", "mlkd", "funmatch")
STAGED = ("ab", "ft", "fsp")
SMALL = {"crd": ["method_args.K=8"]}


def words(method: str, folder: Path, steps: int) -> list[str]:
    # An untrained teacher's maps are large: the published rate makes ft's autoencoder diverge on them.
    more = ["method_args.first_epochs=1", "method_args.first_lr=0.0001"] if method in STAGED else []
    return [
        "dataset=synthetic", "pair=resnet20-resnet8", f"method={method}", "teacher.checkpoint=none", "optim.epochs=1",
        f"run.limit_steps={steps}", f"run.dir={folder}", "run.name=x", "runtime.device=cpu", "log.tensorboard=false",
        "data.batch_size=8", "data.val_split=1900", "run.checkpoint_steps=2", *more, *SMALL.get(method, []),
    ]  # fmt: skip


def check(method: str, folder: Path, capture: Capture) -> None:
    """Six steps at once against three, a stop, and three more."""
    straight, broken = folder / "straight", folder / "broken"
    code, out, err = cli.call(train, words(method, straight, 6), capture)
    assert code == 0, out + err
    for steps in (3, 6):
        code, out, err = cli.call(train, words(method, broken, steps), capture)
        assert code == 0, out + err
    assert "resumed at step 3" in out
    states = [torch.load(where / "x" / "checkpoints" / "last.pt", weights_only=True) for where in (straight, broken)]
    for part in ("model", "distiller"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(value, states[1][part][key]) for key, value in states[0][part].items())


@pytest.mark.parametrize("method", QUICK)
def test_resumed(method: str, tmp_path: Path, capsys: Capture) -> None:
    check(method, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in QUICK])
def test_every_method_resumed(method: str, tmp_path: Path, capsys: Capture) -> None:
    check(method, tmp_path, capsys)
