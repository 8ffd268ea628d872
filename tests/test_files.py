"""Files are whole or absent; what killed writers leave goes with the next writer; a full disk is one line."""

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cli
import pytest

from data_prep import synthetic
from pipeline import cli as entry
from pipeline import export
from pipeline.utils import atomic
from pipeline.utils.atomic import unfinished, whole_or_absent, write_atomically


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A limit on the size of files stands in for a full disk: the kernel refuses what lies behind it."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def killed_while_writing(path: Path) -> None:
    """A process that dies inside."""
    pid = os.fork()
    if pid == 0:
        with whole_or_absent(path) as handle:
            handle.write(b"half")
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    for _ in range(3):
        killed_while_writing(path)
    assert len(names(tmp_path)) == 1  # not one more per kill: it may be as large as ImageNet
    write_atomically(path, b"whole")
    assert names(tmp_path) == ["a.beton"] and path.read_bytes() == b"whole"


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with whole_or_absent(path) as first:
        first.write(b"first " * 1000)
        killed_while_writing(path)
        with whole_or_absent(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second" and len(names(tmp_path)) == 2
    assert path.read_bytes() == b"first " * 1000 and names(tmp_path) == ["x"]


def test_a_later_writer_sweeps_what_writers_at_once_left(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with whole_or_absent(path):
        killed_while_writing(path)
        taken = names(tmp_path)
    assert len(taken) == 2
    write_atomically(path, b"")
    assert names(tmp_path) == ["x"]


def test_of_other_machines_only_what_is_old_is_swept(tmp_path: Path) -> None:
    """Locks may not reach them. Files of others that look alike stay."""
    kept = [".x.by-elsewhere.tmp", ".x.json.by-elsewhere.tmp", ".x.bak.tmp", ".x.tmp", "x.1.tmp"]
    gone = [".x.by-elsewhere-1.tmp", ".x.by-other.tmp", ".x.4711.tmp"]
    for name in kept + gone:
        (tmp_path / name).write_text("half")
    for name in [*kept[1:], *gone]:
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    write_atomically(tmp_path / "x", b"")
    assert names(tmp_path) == sorted([*kept, "x"])


def test_without_locks_each_writer_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    with whole_or_absent(tmp_path / "x") as handle:
        assert Path(str(handle.name)) == unfinished(tmp_path / "x", os.getpid())
    assert names(tmp_path) == ["x"]


def test_a_failed_write_names_the_file_and_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"older")
    with full_disk(1000), pytest.raises(OSError) as failed:
        write_atomically(path, b"n" * 2000)
    assert failed.value.filename == str(path) and path.read_bytes() == b"older" and names(tmp_path) == ["x"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_wherever_the_disk_refuses_it_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> None:
        raise OSError(number, os.strerror(number), "/runs/x")

    with pytest.raises(SystemExit) as ended:
        entry.run(main, str, {})
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "/runs/x" in err and os.strerror(number) in err and err.count("\n") == 1


EXPORT = ("model=resnet8", "dataset=cifar100", "checkpoint=none", "out={}/m.bin")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (synthetic, ("out={}",)),
        (synthetic, ("what=jpegs", "out={}", "classes=1", "train_per_class=1", "val_per_class=0")),
        *((export, (f"to={to}", *EXPORT)) for to in ("safetensors", "state_dict", "torchscript")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_writers_on_a_full_disk_end_with_one_line_and_leave_no_file(
    module: ModuleType, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(4096):
        code, _, err = cli.call(module, [word.format(tmp_path) for word in words], capsys)
    assert code == 1 and err.startswith("error: cannot write") and err.count("\n") == 1, err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_no_writer_has_a_temporary_name_with_its_process(tmp_path: Path) -> None:
    """Nobody would know whether the writer lives. Below .parts/ all goes when the cache is complete."""
    sources = [p for part in ("pipeline", "data_prep", "launch") for p in (cli.ROOT / part).rglob("*.py")]
    own = [p.name for p in sources if "getpid()" in p.read_text() and ".tmp" in p.read_text()]
    assert sorted(own) == ["atomic.py", "cache_parts.py"]
