"""Writers: the same bytes whatever their number and fate; what they refuse."""

import os
import random
import shutil
import time
from pathlib import Path

import cli
import mini_cifar
import pytest
import ranks
from cache_jobs import sums, teacher_file, words, write

from data_prep import cache_parts, cache_teacher, verify_cache
from pipeline.teachers.cache_format import MANIFEST, read_manifest

VIEWS = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CIFAR-100 and a teacher."""
    folder = mini_cifar.write(tmp_path_factory.mktemp("cifar"), train=200, test=20)
    teacher_file(folder)
    return folder


def written(root: Path, out: Path, *more: str, number: int = 1) -> Path:
    """The cache that `number` ranks wrote."""
    argv = words(root, f"cache.out={out}", f"cache.views={VIEWS}", *more)
    codes = ranks.finish(ranks.start(write, (argv,), number, out.with_suffix(".log")))
    assert codes == [0] * number, out.with_suffix(".log.0").read_text()
    return out


@pytest.fixture(scope="module")
def cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by one rank in one go."""
    return written(root, tmp_path_factory.mktemp("caches") / "one", "cache.pooled=true")


def test_three_ranks_write_the_bytes_of_one(root: Path, cache: Path, tmp_path: Path) -> None:
    three = written(root, tmp_path / "three", "cache.pooled=true", number=3)
    assert sums(three) == sums(cache) and len(sums(cache)) == 2 * VIEWS + 2
    assert not (three / ".parts").exists()


def test_two_jobs_share_a_folder(root: Path, cache: Path, tmp_path: Path) -> None:
    argv = words(root, f"cache.out={tmp_path / 'both'}", f"cache.views={VIEWS}", "cache.pooled=true")
    jobs = [ranks.start(write, (argv,), 1, tmp_path / f"job{n}") for n in range(2)]
    assert [code for job in jobs for code in ranks.finish(job)] == [0, 0]
    assert sums(tmp_path / "both") == sums(cache)


def parts_in(out: Path) -> set[str]:
    """Files of parts. os.walk passes over a folder that a writer removes meanwhile, rglob does not."""
    return {f"{place}/{name}" for place, _, names in os.walk(out) for name in names if name.endswith(".npz")}


def test_a_writer_killed_twenty_times_ends_with_the_same_bytes(root: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    argv = words(root, f"cache.out={out}", f"cache.views={VIEWS}", "cache.pooled=true")
    draw, killed, seen = random.Random(1), 0, set()
    while killed < 20:
        (job,) = ranks.start(write, (argv, 1, 16), 1, tmp_path / "log")
        present = parts_in(out)
        deadline = time.monotonic() + 30
        # Killed while it works: once it has written something new, a random moment later.
        while job.is_alive() and parts_in(out) <= present and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        if job.is_alive():
            job.kill()
            killed += 1
        job.join()
        seen |= {p.name for p in out.glob("view-*.npy")}
        if (out / MANIFEST).exists():
            assert sums(out) == sums(cache)
            shutil.rmtree(out)
    codes = ranks.finish(ranks.start(write, (argv, 1, 16), 1, tmp_path / "log"))
    assert codes == [0] and sums(out) == sums(cache)


def test_a_finished_cache_is_left_alone_and_another_is_refused(
    root: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sums(cache)
    same = words(root, f"cache.out={cache}", f"cache.views={VIEWS}", "cache.pooled=true")
    code, out, _ = cli.call(cache_teacher, same, capsys)
    assert code == 0 and "already complete" in out
    for change, text in (
        ("data.seed=5", "data.seed is 0 there, 5 here"),
        ("cache.dtype=fp16", "layout.dtype is fp32 there, fp16 here"),
        ("data.padding=2", "data.padding is 4 there, 2 here"),
    ):
        code, _, err = cli.call(cache_teacher, [*same, change], capsys)
        assert code == 2 and text in err and err.count("\n") == 1
    assert sums(cache) == before


def test_a_disk_that_cannot_hold_it_is_told_beforehand(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(cache_parts.shutil, "disk_usage", lambda _: usage)
    code, _, err = cli.call(cache_teacher, words(root, f"cache.out={tmp_path / 'c'}", "cache.views=9"), capsys)
    assert code == 2 and "800,000 bytes are to be written, the disk has 100,000 left" in err
    assert not list((tmp_path / "c").glob("*.npy"))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["cache.dtype=topk"], "cache.k=0 of 100 classes"),
        (["cache.views=0"], "cache.views"),
        (["method=r2kd", "variant=original"], "depend on the run"),
        (["teacher.checkpoint=null"], "needs teacher.checkpoint=FILE"),
    ],
)
def test_what_cannot_be_written_is_refused(
    root: Path, tmp_path: Path, more: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = cli.call(cache_teacher, words(root, f"cache.out={tmp_path / 'c'}", *more), capsys)
    assert code == 2 and text in err and not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_written(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = cli.call(cache_teacher, words(root, f"cache.out={tmp_path / 'file' / 'c'}"), capsys)
    assert code == 2 and "cannot write a cache into" in err and err.count("\n") == 1


def test_verify_finds_nothing_and_then_another_teacher(
    root: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = cli.call(verify_cache, [str(cache), "records=60"], capsys)
    assert code == 0 and "ordinary logits: 60 records, max |dz| 0 " in out and "agreement 100.00 %" in out
    code, out, err = cli.call(verify_cache, [str(cache), "records=60", "teacher.checkpoint=none"], capsys)
    assert code == 1 and "warning: teacher.weights is" in out and "is not what this teacher gives" in err
    code, _, err = cli.call(verify_cache, [str(tmp_path)], capsys)
    assert code == 2 and "no finished teacher cache" in err


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_smaller_types_stay_within_their_bounds(
    root: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(root, f"cache.out={tmp_path / 'c'}", "cache.views=1", f"cache.dtype={dtype}")
    assert cli.call(cache_teacher, argv, capsys)[0] == 0
    code, out, _ = cli.call(verify_cache, [str(tmp_path / "c"), "records=200"], capsys)
    share = float(out.partition("(")[2].partition(" of the bound")[0])
    assert code == 0 and 0.2 < share <= 1
    assert read_manifest(tmp_path / "c").layout.dtype == dtype
