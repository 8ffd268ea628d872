"""Fetching and unpacking: checked, whole or not at all, nothing outside the folder, any number at once."""

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cifar_files
import pytest

from pipeline.contracts import InputError
from pipeline.datasets.archives import Archive, download, unpack
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
