"""Fetching published teachers, from a web server on this machine."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cli
import pytest
import torch
import web

from data_prep import fetch_teachers as prep
from pipeline.datasets import downloads
from pipeline.models import MODELS
from pipeline.weights import load_into
from pipeline.weights.published import find_checkpoint, releases

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("resnet56", "resnet110", "resnet32x4", "ResNet50", "wrn_40_2", "vgg13")
Capture = pytest.CaptureFixture[str]


def member(name: str) -> str:
    return f"cifar_teachers/{name}_vanilla/ckpt_epoch_240.pth"


def tar_of(files: dict[str, bytes], *further: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in further:
            tar.addfile(info)
    return packed.getvalue()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[web.Site]:
    """mdistiller's archive and RepDistiller's files; a checkpoint holds its own name, many times."""
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
    with web.serve() as running:
        running.files["cifar_teachers.tar"] = tar_of({member(name): name.encode() * 5000 for name in NAMES})
        running.files |= {f"{name}_vanilla/ckpt_epoch_240.pth": name.encode() for name in NAMES}
        yield running


def call(site: web.Site, out: Path, capture: Capture, *words: str) -> tuple[int, str, str]:
    return cli.call(prep, [f"out={out}", f"url={site.url}", *words], capture)


def test_all_of_an_archive(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    code, out, err = call(site, tmp_path, capsys)
    assert code == 0 and err == ""
    assert out.splitlines()[:6] == [str(tmp_path / member(name)) for name in NAMES]
    assert "licence" in out.splitlines()[6]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checksums.json", "cifar_teachers"]
    for name in NAMES:
        assert find_checkpoint(name, "cifar100", tmp_path) == tmp_path / member(name)
        assert (tmp_path / member(name)).read_bytes() == name.encode() * 5000
    sums = json.loads((tmp_path / "checksums.json").read_text())
    assert sums.keys() == {"mdistiller/cifar_teachers.tar", *map(member, NAMES)}
    assert sums[member("vgg13")] == hashlib.sha256(b"vgg13" * 5000).hexdigest()
    assert call(site, tmp_path, capsys)[0] == 0 and len(site.asked) == 1  # nothing is fetched twice


def test_some_of_an_archive(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    assert call(site, tmp_path, capsys, "names=vgg13")[0] == 0
    assert call(site, tmp_path, capsys, "names=[cifar/resnet50,vgg13]")[0] == 0
    assert sorted(p.name for p in (tmp_path / "cifar_teachers").iterdir()) == ["ResNet50_vanilla", "vgg13_vanilla"]


def test_single_files_and_their_published_sum(
    site: web.Site, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(site, tmp_path, capsys, "release=repdistiller", "names=[wrn_40_2,vgg13]")
    assert code == 0 and out.splitlines()[0] == str(tmp_path / "save/models/wrn_40_2_vanilla/ckpt_epoch_240.pth")
    assert find_checkpoint("vgg13", "cifar100", tmp_path).read_bytes() == b"vgg13"
    site.files["resnet34-b627a593.pth"] = b"something else"
    code, _, err = call(site, tmp_path, capsys, "release=torchvision", "names=imagenet/resnet34")
    assert code == 2 and "the published one is b627a593" in err and err.count("\n") == 1
    assert not (tmp_path / "resnet34-b627a593.pth").exists()
    url = f"url={site.url}vgg13_vanilla/ckpt_epoch_240.pth"
    assert cli.call(prep, ["release=repdistiller", "names=vgg13", f"out={tmp_path / 'b'}", url], capsys)[0] == 0


def test_cut_and_gone_on_with(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    site.cuts = [50_000, 0]
    code, _, err = call(site, tmp_path, capsys)
    assert code == 2 and "what has come is kept, call again to go on" in err and err.count("\n") == 1
    site.cuts = [20_000]
    assert call(site, tmp_path, capsys)[0] == 0
    assert [wanted for _, wanted, _ in site.asked] == [None, "bytes=50000-", "bytes=50000-", "bytes=70000-"]


def test_what_came_first_is_right_ever_after(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    assert call(site, tmp_path, capsys, "names=vgg13")[0] == 0
    site.files["cifar_teachers.tar"] = tar_of({member(name): b"other" for name in NAMES})
    code, _, err = call(site, tmp_path, capsys, "names=resnet56")
    assert code == 2 and f"{tmp_path / 'checksums.json'} says" in err and not (tmp_path / member("resnet56")).exists()
    (tmp_path / member("vgg13")).write_bytes(b"flipped")
    code, _, err = call(site, tmp_path, capsys, "names=vgg13")
    assert code == 2 and f"{tmp_path / member('vgg13')} has SHA-256" in err


def test_an_archive_put_there_by_hand(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "cifar_teachers.tar").write_bytes(site.files["cifar_teachers.tar"])
    assert call(site, tmp_path, capsys)[0] == 0 and site.asked == []


def test_zip_with_another_leading_folder(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in NAMES:
            archive.writestr(f"teachers/models_tinyimagenet_v2/{name}_vanilla/ckpt_epoch_240.pth", name)
    site.files["teachers_tinyimagenet.zip"] = packed.getvalue()
    assert call(site, tmp_path, capsys, "release=r2kd")[0] == 0
    assert find_checkpoint("cifar/resnet50", "tiny_imagenet", tmp_path).read_bytes() == b"ResNet50"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.REGTYPE, "../escaped"),
        (tarfile.REGTYPE, "/escaped"),
        (tarfile.SYMTYPE, "link"),
        (tarfile.CHRTYPE, "null"),
    ],
)
def test_unsafe_archives(kind: bytes, name: str, site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "../../escaped"
    site.files["cifar_teachers.tar"] = tar_of({member(n): b"x" for n in NAMES}, info)
    code, _, err = call(site, tmp_path / "out", capsys)
    assert code == 2 and "refused" in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and not (tmp_path / "out" / "cifar_teachers").exists()


def test_an_archive_without_what_is_wanted(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    site.files["cifar_teachers.tar"] = tar_of({member("vgg13"): b"x"})
    code, _, err = call(site, tmp_path, capsys, "names=[vgg13,resnet56]")
    assert code == 2 and f"cifar_teachers.tar holds no {member('resnet56')}" in err


def test_not_there(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    site.files.clear()
    code, _, err = call(site, tmp_path, capsys)
    assert code == 2 and "404" in err and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["release=mdistiler"], "did you mean 'mdistiller'"),
        (["release=simkd"], "fetch it by hand from https://"),
        (["names=resnet20"], "holds no 'resnet20'"),
        (["names=resnet50"], "holds no 'resnet50'; did you mean 'ResNet50'"),
        (["release=[mdistiller,r2kd]", "url=http://x/"], "url= is the mirror of one release"),
        (["relase=mdistiller"], "did you mean 'release'"),
        (["release=[]"], "release"),
    ],
)
def test_bad_arguments(words: list[str], message: str, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = cli.call(prep, [f"out={tmp_path / 'new'}", *words], capsys)
    assert code == 2 and message in err and not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = call(site, tmp_path / "file", capsys)
    assert code == 2 and err.startswith(f"error: cannot write {tmp_path / 'file'}")


@pytest.mark.parametrize("content", ["no json", "3"])
def test_damaged_sums(content: str, site: web.Site, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "checksums.json").write_text(content)
    code, _, err = call(site, tmp_path, capsys)
    assert code == 2 and "checksums.json is damaged: delete it" in err


def test_help_lists_the_releases(capsys: Capture) -> None:
    code, out, _ = cli.call(prep, ["help"], capsys)
    assert code == 0 and all(f"  {name} " in out for name in releases())


def test_the_command_and_what_it_brings(site: web.Site, tmp_path: Path) -> None:
    """From the archive to a network with the teacher's weights."""
    torch.manual_seed(0)
    teacher, saved = MODELS.get("vgg13")(num_classes=100), io.BytesIO()
    torch.save({"epoch": 240, "model": teacher.state_dict()}, saved)
    site.files["cifar_teachers.tar"] = tar_of({member("vgg13"): saved.getvalue()})
    words = ["names=vgg13", f"out={tmp_path / 'out'}", f"url={site.url}"]
    command = [sys.executable, str(ROOT / "data_prep" / "fetch_teachers.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    network = MODELS.get("vgg13")(num_classes=100)
    load_into(network, find_checkpoint("vgg13", "cifar100", tmp_path / "out"))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), teacher.state_dict().values(), strict=True)
    )
