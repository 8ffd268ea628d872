"""Caches and half-written ones that somebody damaged or forged: one line, or computed anew; nothing outside is read."""

import errno
import functools
import hashlib
import json
import os
from pathlib import Path

import cli
import mini_cifar
import numpy as np
import pytest
import torch
from cache_jobs import sums, teacher_file, words

from data_prep import cache_parts, cache_teacher, verify_cache
from pipeline.contracts import InputError
from pipeline.engine.distributed.parallel import World
from pipeline.teachers.cache_format import Layout, Manifest, check_sizes, read_manifest
from pipeline.teachers.cache_reader import CacheReader

SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
LAYOUT = Layout(samples=3, classes=4, pooled=0, views=2, dtype="topk", k=2)


def small_cache(folder: Path) -> dict[str, object]:
    """A cache of three samples; its manifest."""
    files = {}
    for view in range(LAYOUT.views):
        for name, (dtype, columns) in LAYOUT.files(view).items():
            np.save(folder / name, np.zeros((LAYOUT.samples, columns), dtype))
            content = (folder / name).read_bytes()
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = json.loads(Manifest(layout=LAYOUT, identity={"precision": {"amp": "off"}}, files=files).text())
    (folder / "manifest.json").write_text(json.dumps(found))
    return found


FILE = "view-00000.logits.npy"
OUTSIDE = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (["layout", "samples"], "x", "layout.samples is x"),
        (["layout", "samples"], -1, "layout.samples is -1"),
        (["layout", "classes"], None, "layout.classes is null"),
        (["layout", "classes"], 10**18, "layout.classes is 1000000000000000000"),
        (["layout", "classes"], True, "layout.classes is true"),
        (["layout", "classes"], 4.0, "layout.classes is 4.0"),
        (["layout", "views"], 10**12, "lists no view-00002"),
        (["layout", "views"], 10**400, "a number of 401 digits"),
        (["layout", "views"], 0, "layout.views is 0"),
        (["layout", "dtype"], [], "layout.dtype is"),
        (["layout", "dtype"], "fp8", "'fp8' are unknown"),
        (["layout", "k"], 9, "cache.k=9 of 4"),
        (["layout", "streams"], ["../x"], "layout.streams is"),
        (["layout", "streams"], ["a", "a"], "layout.streams is"),
        (["layout", "streams"], "strong", "layout.streams is"),
        (["layout", "other"], 1, "layout.other is 1"),
        (["files", FILE], None, f"files.{FILE} is null"),
        (["files", FILE], [1], f"files.{FILE} is"),
        (["files", FILE, "bytes"], "5", f"files.{FILE} is"),
        (["files", FILE, "sha256"], 5, f"files.{FILE} is"),
        (["files", "/etc/passwd"], OUTSIDE, "lists /etc/passwd, which is no file of such a cache"),
        (["files", "../../x"], OUTSIDE, "lists ../../x, which is no file of such a cache"),
        (["files", "n" * 5000], OUTSIDE, "which is no file of such a cache"),
        (["files", "a\nb\0\ud800"], OUTSIDE, "damaged"),
        (["identity", "precision"], 3, "identity.precision is 3"),
        (["identity", "precision", "amp"], ["off"], "identity.precision.amp is"),
        (["identity"], [], "identity is no mapping"),
        (["format"], ["x\ny"], "not stillhouse-teacher-cache 1"),
        (["version"], {}, "not stillhouse-teacher-cache 1"),
    ],
)
def test_a_forged_manifest_is_one_line(tmp_path: Path, place: list[str], value: object, text: str) -> None:
    content = small_cache(tmp_path)
    at = content
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = value
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as refused:
        read_manifest(tmp_path)
    assert text in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("content", ["[]", "", "[" * 99_999, '{"layout":' * 5000, "NaN", r'"\ud83d"', "3"])
def test_a_manifest_that_is_none(tmp_path: Path, content: str) -> None:
    small_cache(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="damaged") as refused:
        read_manifest(tmp_path)
    assert "\n" not in str(refused.value)


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    folder, other = tmp_path / "cache", tmp_path / "other.npy"
    folder.mkdir()
    small_cache(folder)
    (folder / FILE).replace(other)
    (folder / FILE).symlink_to(other)
    with pytest.raises(InputError, match=f"{FILE} is a link that leads out of it"):
        check_sizes(folder, read_manifest(folder))
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    with pytest.raises(InputError, match=f"{FILE} is no plain file"):
        check_sizes(folder, read_manifest(folder))
    (folder / FILE).unlink()
    other.replace(folder / "inside.npy")
    (folder / FILE).symlink_to("inside.npy")
    check_sizes(folder, read_manifest(folder))
    (tmp_path / "link").symlink_to("cache")
    check_sizes(tmp_path / "link", read_manifest(tmp_path / "link"))


@pytest.mark.parametrize("kind", ["zip", "deep", "shape", "index", "pickle"])
def test_an_array_that_is_none(tmp_path: Path, kind: str) -> None:
    """With teacher.verify=off, or with sums that were forged as well."""
    small_cache(tmp_path)
    name = "view-00000.logits.index.npy" if kind == "index" else FILE
    size, path = (tmp_path / name).stat().st_size, tmp_path / name
    if kind == "zip":
        with path.open("wb") as handle:
            np.savez(handle, a=np.zeros(0))
    elif kind == "index":
        np.save(path, np.full((3, 2), 4, np.int32))
    elif kind == "pickle":
        path.write_bytes(b"\x80\x04]\x94.")
    else:
        header = b"(" * 100 if kind == "deep" else b"{'descr':'<f2','fortran_order':False,'shape':(9999999999999,2)}"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))
    reader = CacheReader(tmp_path, "cpu", on_device=False, check="off")
    with pytest.raises(InputError, match=name) as refused:
        reader._turn_to(0)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CIFAR-100 and a teacher."""
    folder = mini_cifar.write(tmp_path_factory.mktemp("cifar"), train=64, test=20)
    teacher_file(folder)
    return folder


@pytest.fixture(scope="module")
def writer(root: Path) -> pytest.MonkeyPatch:
    """Small parts: two views of two."""
    patch = pytest.MonkeyPatch()
    patch.setattr(cache_teacher, "PART", 2)
    patch.setattr(cache_teacher, "CHUNK", 16)
    yield patch
    patch.undo()


def written(root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The end of a writer."""
    return cli.call(cache_teacher, words(root, f"cache.out={out}", "cache.views=2"), capsys)


@pytest.fixture(scope="module")
def whole(root: Path, writer: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sums of an undisturbed cache."""
    config = cache_teacher.read_config(
        words(root, f"cache.out={tmp_path_factory.mktemp('whole') / 'c'}", "cache.views=2")
    )
    return sums(cache_teacher.write_cache(config, World(rank=0, ranks=1, device=torch.device("cpu"), side=None)).folder)


def stopped(root: Path, out: Path, capsys: pytest.CaptureFixture[str], at: str, monkeypatch) -> None:
    """A writer that met a full disk at its first call of cache_parts.<at> for view 1."""
    real = getattr(cache_parts, at)

    def full(*given: object) -> object:
        if any("view-00001" in str(one) for one in given):
            raise OSError(errno.ENOSPC, "No space left on device", str(given[0]))
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(cache_parts, at, full)
        code, _, err = written(root, out, capsys)
    assert code == 1 and err.count("\n") == 1 and "No space left on device" in err and err.startswith("error: ")


@pytest.mark.parametrize("at", [SLOW("write_atomically"), "allocate", SLOW("seal")])
def test_a_full_disk_is_one_line_and_the_writer_goes_on(
    root: Path, whole: dict[str, str], tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    stopped(root, tmp_path / "full", capsys, at, monkeypatch)
    assert written(root, tmp_path / "full", capsys)[0] == 0
    assert sums(tmp_path / "full") == whole and not (tmp_path / "full" / ".parts").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("identity.json", b"[]"),
        SLOW("identity.json", b""),
        SLOW("identity.json", b'{"identity": 3, "layout": {}}'),
        ("view-00000.json", b""),
        SLOW("view-00000.json", b"[]"),
        SLOW("view-00000.json", b'{"view-00000.logits.npy": null}'),
        SLOW("view-00001.part-0000.npz", b""),
        SLOW("view-00001.part-0000.npz", b"PK\x03\x04"),
        ("view-00001.part-0000.npz", None),
    ],
)
def test_what_is_damaged_is_computed_anew(
    root: Path, whole: dict[str, str], tmp_path: Path, name: str, content: bytes | None, monkeypatch, capsys
) -> None:
    """The same command, once: no error that comes back at every start."""
    out = tmp_path / "c"
    stopped(root, out, capsys, "allocate", monkeypatch)  # view 0 is joined, view 1 lies there in parts
    there = out / ".parts" / name
    if content is None:  # a bit of the data
        changed = bytearray(there.read_bytes())
        changed[len(changed) // 2] ^= 4
        content = bytes(changed)
    assert there.is_file()
    there.write_bytes(content)
    code, said, err = written(root, out, capsys)
    assert code == 0 and "computed anew" in said, err
    assert sums(out) == whole


def test_a_damaged_manifest_stops_the_writer(root: Path, writer: object, tmp_path: Path, capsys) -> None:
    out = tmp_path / "c"
    assert written(root, out, capsys)[0] == 0
    (out / "manifest.json").write_text("[]")
    code, _, err = written(root, out, capsys)
    assert code == 2 and err.count("\n") == 1 and "without manifest.json it would be written anew" in err
    code, _, err = cli.call(verify_cache, [str(out)], capsys)
    assert code == 2 and err.count("\n") == 1
    for words_ in (["records=0"], ["seed=²"], ["records=" + "9" * 5000]):
        assert cli.call(verify_cache, [str(out), *words_], capsys)[0] == 2
    assert cli.call(verify_cache, ["n" * 5000], capsys)[0] == 2


def test_blocks_and_headers_are_counted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = cache_parts.shutil.disk_usage(tmp_path)._replace(free=80_000)
    monkeypatch.setattr(cache_parts.shutil, "disk_usage", lambda _: usage)
    code, _, err = written(root, tmp_path / "c", capsys)
    assert code == 2 and "76,800 bytes are to be written (" in err and "with headers and blocks" in err


def test_stores_into_a_mapped_file_have_their_blocks(tmp_path: Path) -> None:
    """A sparse file would end the process by SIGBUS on a full disk."""
    from data_prep import cache_arrays

    array = cache_arrays.allocate(tmp_path / "a.npy", np.dtype(np.float32), (1000, 1000))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 4_000_000 and not array.any()
