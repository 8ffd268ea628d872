"""Runs of a second in this process, and ways to end them at a chosen place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import mini_cifar
import pytest

from pipeline import train
from pipeline.run_folder.checkpoint_file import seal, unseal

Capture = pytest.CaptureFixture[str]
EPOCHS, STEPS = 3, 2
FIRST = ("method_args.first_epochs=1", "method_args.first_lr=1e-6")
TAUGHT = ("teacher.model=resnet8", "teacher.checkpoint=none", "run.checkpoint_steps=1", *FIRST)


class Killed(BaseException):
    """Ends a run where it is raised, as SIGKILL would: nobody catches it."""


def killed(*_: object, **__: object) -> None:
    raise Killed


def words(root: Path, name: str, *more: str) -> list[str]:
    """A run of three epochs of two steps. root: holds the data and the runs."""
    return [
        *("dataset=cifar100", f"data.root={root / 'data'}", "model=resnet8", "runtime.device=cpu", "optim.epochs=3"),
        *("data.batch_size=8", "data.eval_batch_size=8", "log.tensorboard=false", f"run.dir={root}"),
        *(f"run.name={name}", *more),
    ]


def make_data(root: Path) -> Path:
    mini_cifar.write(root / "data", train=16, test=8)
    return root


def finish(root: Path, name: str, capture: Capture, *more: str) -> str:
    """Trains to the end; what it said."""
    code, out, err = cli.call(train, words(root, name, *more), capture)
    assert code == 0, out + err
    return out


def refused(root: Path, name: str, capture: Capture, *more: str) -> str:
    """The one line of a run that does not start."""
    code, out, err = cli.call(train, words(root, name, *more), capture)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (code, out, err)
    return err


def stop(root: Path, name: str, patch: Callable[[pytest.MonkeyPatch], object], *more: str) -> Path:
    """Trains until `patch` ends it; the run's folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        monkeypatch.setattr("sys.argv", ["train.py"])
        with pytest.raises(Killed):
            train.main(words(root, name, *more))
    return root / name


def after_step(number: int) -> Callable[[pytest.MonkeyPatch], object]:
    """Ends a run when so many steps and what follows them are done."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        before = train.Trainer._after_step

        def stopping(self: train.Trainer, *arguments: Any) -> None:
            before(self, *arguments)
            if self.done == number and self.run.folder.name != "first_stage":
                raise Killed

        monkeypatch.setattr(train.Trainer, "_after_step", stopping)

    return patch


def copied(source: Path, name: str) -> Path:
    """The run once more, under another name."""
    return Path(shutil.copytree(source, source.with_name(name)))


def flip(path: Path) -> None:
    """One bit of the file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A checkpoint with other content, its sum right. change: works in place, or returns the new content."""
    state = unseal(path)
    changed = change(state)
    path.write_bytes(seal(state if changed is None else changed))  # type: ignore[arg-type]
