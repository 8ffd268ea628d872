"""Fetching and unpacking: checked, whole or not at all, nothing outside the folder, any number at once."""

import http.server
import io
import os
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cifar_files
import pytest

from pipeline.contracts import InputError
from pipeline.datasets import archives
from pipeline.datasets.archives import Archive, download, extract, scratch_beside, unpack
from pipeline.datasets.cifar import CIFAR100, load_cifar


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server on this machine."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_download(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    layout = cifar_files.pack(CIFAR100, tmp_path / "scratch", folder)
    layout = replace(layout, archive=replace(layout.archive, base_url=url))
    root = tmp_path / "new" / "root"
    with pytest.raises(InputError, match=r"let data\.download=true fetch it"):
        load_cifar(layout, root, "train")
    assert len(load_cifar(layout, root, "train", fetch=True)) == 6
    assert sorted(p.name for p in root.iterdir()) == ["cifar-100-python", "cifar-100-python.tar.gz"]


def test_a_damaged_download_leaves_nothing(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    layout = cifar_files.pack(CIFAR100, tmp_path / "scratch", folder)
    (folder / layout.archive.file).write_bytes(b"half of it")
    with pytest.raises(InputError, match=f"has MD5 .*, the published .* has {layout.archive.md5}"):
        download(replace(layout.archive, base_url=url), tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "no address"])
def test_no_network(url: str, tmp_path: Path) -> None:
    archive = replace(CIFAR100.archive, base_url=url)
    with pytest.raises(InputError, match=r"could not fetch .*; put .* there by hand") as caught:
        download(archive, tmp_path)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_not_on_the_server(site: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="404"):
        download(replace(CIFAR100.archive, base_url=site[0]), tmp_path / "root")


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not fetch"):
        download(CIFAR100.archive, tmp_path / "file")


def test_many_at_once(tmp_path: Path) -> None:
    layout = cifar_files.pack(CIFAR100, tmp_path / "scratch", tmp_path / "root")
    with ThreadPoolExecutor(8) as pool:
        sets = list(pool.map(lambda _: load_cifar(layout, tmp_path / "root", "train"), range(16)))
    assert len({found.fingerprint() for found in sets}) == 1
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["cifar-100-python", "cifar-100-python.tar.gz"]


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Archive:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return cifar_files.with_sum(CIFAR100, path).archive


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../escaped"),
        member("cifar-100-python/../../escaped"),
        member("/tmp/escaped"),
        member("escaped"),
        member("cifar-100-python/link", tarfile.SYMTYPE, "../../escaped"),
        member("cifar-100-python/link", tarfile.LNKTYPE, "cifar-100-python/train"),
        member("cifar-100-python/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_members_outside_are_refused(bad: tarfile.TarInfo, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    path = root / CIFAR100.archive.file
    archive = tar_of(path, (member("cifar-100-python/train"), b"good"), (bad, b""))
    with pytest.raises(InputError, match="no plain file inside cifar-100-python/: refused"):
        unpack(archive, path)
    assert [p.name for p in root.iterdir()] == [path.name] and [p.name for p in tmp_path.iterdir()] == ["root"]


def zip_of(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Archive:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for info, content in members:
            packed.writestr(info, content)
    return cifar_files.with_sum(CIFAR100, path).archive


def zip_entry(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    return info


def test_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    archive = zip_of(
        path, ("cifar-100-python/", b""), ("cifar-100-python/a/b", b"deep"), ("cifar-100-python/c", b"flat")
    )
    folder = unpack(archive, path)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "a/b": b"deep",
        "c": b"flat",
    }


@pytest.mark.parametrize(
    "bad",
    [
        "../escaped",
        "cifar-100-python/../../escaped",
        "/tmp/escaped",
        "escaped",
        zip_entry("cifar-100-python/link", stat.S_IFLNK),
        zip_entry("cifar-100-python/pipe", stat.S_IFIFO),
        zip_entry("cifar-100-python/device", stat.S_IFBLK),
    ],
    ids=lambda bad: getattr(bad, "filename", bad),
)
def test_bad_members_of_a_zip_are_refused(bad: zipfile.ZipInfo | str, tmp_path: Path) -> None:
    path = tmp_path / "root" / "x.zip"
    path.parent.mkdir()
    archive = zip_of(path, ("cifar-100-python/train", b"good"), (bad, b"../../escaped"))
    with pytest.raises(InputError, match="no plain file inside cifar-100-python/: refused"):
        unpack(archive, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert [p.name for p in tmp_path.iterdir()] == ["root"]


def test_a_damaged_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    zip_of(path, ("cifar-100-python/train", bytes(50_000)), ("cifar-100-python/test", b"good"))
    content = path.read_bytes()
    for bad in (content[:-10], content[:60] + b"####" + content[64:]):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="could not unpack"):
            unpack(cifar_files.with_sum(CIFAR100, path).archive, path)
        assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(tmp_path: Path) -> None:
    zip_of(tmp_path / "inner", ("data", b"1"))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "inner", "cifar-100-python/checkpoint")
    assert zipfile.is_zipfile(tmp_path / "x.tar")
    folder = unpack(cifar_files.with_sum(CIFAR100, tmp_path / "x.tar").archive, tmp_path / "x.tar")
    assert (folder / "checkpoint").read_bytes() == (tmp_path / "inner").read_bytes()


def test_extract_takes_what_is_wanted_and_looks_at_all(tmp_path: Path) -> None:
    path, scratch = tmp_path / "x.zip", tmp_path / "scratch"
    zip_of(path, ("a/one", b"1"), ("a/two", b"2"))
    assert extract(path, scratch, lambda name: scratch / "1" if name.name == "one" else None) == [scratch / "1"]
    assert (scratch / "1").read_bytes() == b"1" and len(list(scratch.iterdir())) == 1
    zip_of(path, ("a/one", b"1"), ("../two", b"2"))
    with pytest.raises(InputError, match="no plain file inside the archive: refused"):
        extract(path, tmp_path / "other", lambda name: None)


def test_no_archive_at_all(tmp_path: Path) -> None:
    path = tmp_path / CIFAR100.archive.file
    for content in (b"text", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match="could not unpack"):
            unpack(cifar_files.with_sum(CIFAR100, path).archive, path)
    with pytest.raises(InputError, match="no folder cifar-100-python"):
        unpack(tar_of(path), path)


def test_a_cut_archive(tmp_path: Path) -> None:
    path = tmp_path / CIFAR100.archive.file
    cifar_files.pack(CIFAR100, tmp_path / "scratch", tmp_path)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError, match="could not unpack"):
        unpack(cifar_files.with_sum(CIFAR100, path).archive, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "scratch"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """And what a living one is unpacking, or another machine's, is not."""
    layout = cifar_files.pack(CIFAR100, tmp_path / "scratch", tmp_path / "root")
    target = tmp_path / "root" / layout.archive.folder
    child = os.fork()
    if child == 0:
        with scratch_beside(target) as left:
            (left / "half").write_bytes(b"x")
            os._exit(9)
    os.waitpid(child, 0)
    elsewhere, old = (target.with_name(f".{target.name}-{name}") for name in ("at-elsewhere-abc", "abcdefgh"))
    for folder, age in ((elsewhere, 0), (old, 2 * archives.LEFT_SECONDS)):
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    assert len(list(target.parent.glob(".*"))) == 3
    with scratch_beside(target) as living:
        assert unpack(layout.archive, target.parent / layout.archive.file) == target
        assert living.is_dir() and sorted(target.parent.glob(".*")) == sorted([living, elsewhere])
    assert list(target.parent.glob(".*")) == [elsewhere]
