"""A disk that is full, wherever a training writes: one line, exit code 1, and the same command goes on when it has
room."""

from pathlib import Path

import cli
import pytest
import short_runs
from short_runs import Capture, finish, make_data, words
from test_files import full_disk
from test_resume import assert_same_run

from pipeline import train
from pipeline.run_folder.folder import RunDir
from pipeline.utils import atomic


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_data(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        short_runs.train.main(words(root, "whole"))
    return root


def assert_stopped(root: Path, name: str, capsys: Capture) -> None:
    code, out, err = cli.call(train, words(root, name, "log.tensorboard=true"), capsys)
    assert code == 1 and err.count("\n") == 1 and "File too large" in err, out + err
    assert not [path for path in (root / name).rglob(".*") if path.name != ".lock"]


# config.yaml, the first event file or record, a checkpoint
@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_files_of_any_size(size: int, root: Path, capsys: Capture) -> None:
    with full_disk(size):
        assert_stopped(root, f"full-{size}", capsys)
    finish(root, f"full-{size}", capsys)
    assert_same_run(root / "whole", root / f"full-{size}")


def test_between_the_first_files(root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """config.yaml fits, environment.json does not."""
    before = atomic.write_text

    def full(path: Path, text: str) -> None:
        with full_disk(0):
            before(path, text)

    monkeypatch.setattr(atomic, "write_text", full)  # write_json goes through it
    assert_stopped(root, "between", capsys)
    assert RunDir(root / "between").config.exists() and not RunDir(root / "between").environment.exists()
    monkeypatch.undo()
    finish(root, "between", capsys)
    assert_same_run(root / "whole", root / "between")
