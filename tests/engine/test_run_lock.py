"""One process trains in a folder, run.resume=never or not, one seed or several."""

import os
from pathlib import Path

import cli
import mini_cifar
import pytest

from pipeline import train
from pipeline.contracts import InputError
from pipeline.run_folder.folder import RunDir
from pipeline.run_folder.lock import FolderLock

Capture = pytest.CaptureFixture[str]


def words(root: Path, *more: str) -> list[str]:
    return [
        *("dataset=cifar100", f"data.root={root / 'data'}", "model=resnet8", "runtime.device=cpu", "run.limit_steps=1"),
        *("data.batch_size=8", "data.eval_batch_size=8", "log.tensorboard=false", f"run.dir={root / 'runs'}", *more),
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mini_cifar.write(tmp_path / "data", train=8, test=8)
    return tmp_path


def begun(folder: Path) -> RunDir:
    """A folder that looks like a run."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("method: other\n")
    return RunDir(folder)


@pytest.mark.parametrize("more", [(), ("seeds=2",), ("seeds=2", "runtime.parallel_seeds=2")])
def test_never_beside_a_live_run_is_refused(more: tuple[str, ...], root: Path, capsys: Capture) -> None:
    """Of several seeds the last one is enough: the finished ones stay where their process will look for them."""
    runs = [begun(root / "runs" / name) for name in (("r/seed0", "r/seed1") if more else ("r",))]
    held = runs[-1]
    with held.locked():
        code, _, err = cli.call(train, words(root, "run.name=r", "run.resume=never", *more), capsys)
        assert code == 2 and err == f"error: another process is training in {held.folder}\n"
    assert all(run.config.exists() for run in runs)
    assert not list((root / "runs").rglob("*.old-*"))


def test_never_sets_aside_what_nobody_uses(root: Path, capsys: Capture) -> None:
    begun(root / "runs" / "r")
    code, out, err = cli.call(train, words(root, "run.name=r", "run.resume=never"), capsys)
    assert code == 0 and f"set aside as {root / 'runs' / 'r.old-1'}" in out, err
    assert (root / "runs" / "r.old-1" / "config.yaml").read_text() == "method: other\n"
    assert (root / "runs" / "r" / "summary.json").exists()


def test_a_lock_moves_with_its_folder(tmp_path: Path) -> None:
    """Who opened the lock before the folder was renamed holds nothing of the new one."""
    run = RunDir(tmp_path / "r")
    with run.locked():
        run.config.write_text("")
        aside = run.set_aside()
        assert aside == tmp_path / "r.old-1" and run.lock.held and run.checkpoints.folder.is_dir()
        with pytest.raises(InputError, match="another process"):
            FolderLock(run.folder).take()
        other = FolderLock(aside)
        other.take()
        other.forget()


def test_a_renamed_lock_is_not_taken_for_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, opened = FolderLock(tmp_path / "r"), FolderLock._open

    def open_and_rename(self: FolderLock) -> object:
        handle = opened(self)
        if not (tmp_path / "r.old-1").exists():
            self.folder.rename(tmp_path / "r.old-1")
        return handle

    monkeypatch.setattr(FolderLock, "_open", open_and_rename)
    lock.take()
    with pytest.raises(InputError):
        FolderLock(tmp_path / "r").take()


def test_a_worker_that_outlives_its_trainer_keeps_nobody_out(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.take()
    reader, writer = os.pipe()
    begun, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.write(begin, b"x")
        os.read(reader, 1)  # until the parent says so
        os._exit(0)
    os.read(begun, 1)
    lock.forget()  # as its death does
    FolderLock(tmp_path).take()
    os.close(writer)
    os.waitpid(pid, 0)


def test_folders_without_a_run_do_not_stay(tmp_path: Path) -> None:
    with RunDir(tmp_path / "r").locked():
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    with RunDir(tmp_path / "r").locked():
        pass
    assert (tmp_path / "r" / "notes.txt").exists()


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to the run folder"), RunDir(tmp_path / "file").locked():
        pass
    (tmp_path / "r").mkdir()
    os.mkfifo(tmp_path / "r" / ".lock")
    with pytest.raises(InputError, match="no plain file"), RunDir(tmp_path / "r").locked():
        pass
