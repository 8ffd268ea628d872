"""ImageNet from archives: the whole tree or a line that says why not, killed at any point or not."""

import errno
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO

import cli
import jpeg_files
import pytest
import tree_archives

from data_prep import imagenet, unpack_tree
from pipeline.datasets import DATASETS

Capture = pytest.CaptureFixture[str]


class Source:
    """A tree of ten classes, and its archives."""

    def __init__(self, folder: Path) -> None:
        self.tree = jpeg_files.tree(folder / "tree", classes=10, train=3, val=1)
        self.train = tree_archives.train_tar(self.tree, folder / "train.tar")
        self.val, lines = tree_archives.val_tar(self.tree, folder / "val.tar")
        self.table = jpeg_files.write(folder / "table.txt", "\n".join(lines).encode())

    def words(self, out: Path) -> list[str]:
        return [f"out={out}", f"train={self.train}", f"val={self.val}", f"mapping={self.table}"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tree that one run makes, without index and report."""
    out = tmp_path_factory.mktemp("whole")
    imagenet.prepare(imagenet.ImagenetConfig(**dict(word.split("=") for word in source.words(out))))
    return images(out)


def images(out: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree_archives.content(out).items() if "/" in path}


def refusal(words: list[str], capsys: Capture, wanted: int = 2) -> str:
    code, _, err = cli.call(imagenet, words, capsys)
    assert code == wanted and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_from_archives(source: Source, tmp_path: Path, capsys: Capture) -> None:
    code, line, err = cli.call(imagenet, source.words(tmp_path), capsys)
    assert code == 0 and err == "" and line.count("\n") == 1
    assert "30 train images of 10 classes, 10 test images of 10 classes; 0 unreadable, 0 both in train and test" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".stillhouse-imagenet-test.index.npz",
        ".stillhouse-imagenet-train.index.npz",
        "report.json",
        "train",
        "val",
    ]
    made, tree = images(tmp_path), images(source.tree)
    assert {k: v for k, v in made.items() if k.startswith("train")} == {k: v for k, v in tree.items() if k[0] == "t"}
    by_class = [
        sorted((path.split("/")[1], data) for path, data in part.items() if path[0] == "v") for part in (made, tree)
    ]
    assert by_class[0] == by_class[1] and len(by_class[0]) == 10
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["whole"] and report["splits"]["train"]["classes"]["n00000010"] == 3
    loaded = DATASETS.get("imagenet")(root=tmp_path, split="train", index="off")
    assert report["splits"]["train"]["fingerprint"] == loaded.fingerprint()


def test_other_sources_give_the_same_tree(
    source: Source, whole: dict[str, bytes], tmp_path: Path, capsys: Capture
) -> None:
    """A folder of class archives, a folder of class folders, and a devkit."""
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(source.train) as outer:
        outer.extractall(tars)  # no filter: Python 3.11.2, which Debian 12 has, knows none
    kit = tmp_path / "kit" / "ILSVRC2012_devkit_t12" / "data"
    rows = [line.split() for line in source.table.read_text().splitlines()]
    wnids = sorted({wnid for _, wnid in rows}, reverse=True)
    numbers = "\n".join(str(wnids.index(wnid) + 1) for _, wnid in rows)
    jpeg_files.write(kit / "ILSVRC2012_validation_ground_truth.txt", numbers.encode())
    packed = tmp_path / "devkit.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "kit" / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    words = [f"val={source.val}", f"devkit={packed}", "workers=1"]
    assert "put map_clsloc.txt" in refusal([f"out={tmp_path / 'a'}", f"train={tars}", *words], capsys)
    jpeg_files.write(tmp_path / "synsets_by_id.txt", "\n".join(wnids).encode())
    for name, train in (("a", tars), ("b", source.tree / "train")):
        assert cli.call(imagenet, [f"out={tmp_path / name}", f"train={train}", *words], capsys)[0] == 0
        assert images(tmp_path / name) == whole
    words = [f"out={tmp_path / 'c'}", f"train={source.tree / 'train'}", f"val={source.tree / 'val'}"]
    assert cli.call(imagenet, words, capsys)[0] == 0 and images(tmp_path / "c") == images(source.tree)


@pytest.mark.parametrize("files", [0, 4, 29, 33])
def test_killed_in_the_middle_of_a_file(
    files: int,
    source: Source,
    whole: dict[str, bytes],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = os.fork()
    if child == 0:  # ends as kill -9 would end it: nothing is cleaned up
        left = [files]

        def half(read: IO[bytes], write: IO[bytes], *_: object) -> None:
            data = read.read()
            if left[0] == 0:
                write.write(data[: len(data) // 2])
                write.flush()
                os._exit(9)
            left[0] -= 1
            write.write(data)

        monkeypatch.setattr(unpack_tree.shutil, "copyfileobj", half)
        try:
            imagenet.prepare(imagenet.ImagenetConfig(**dict(word.split("=") for word in source.words(tmp_path))))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (tmp_path / "train").exists() == (files >= 30) and not (tmp_path / "val").exists()
    assert "error: no " in cli.call(imagenet, [f"out={tmp_path}", "check=true"], capsys)[2]
    assert cli.call(imagenet, source.words(tmp_path), capsys)[0] == 0
    assert images(tmp_path) == whole
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".partial", ".source"))]


def test_full_disk(source: Source, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(unpack_tree.shutil, "copyfileobj", full)
        assert "No space left on device; call again to go on" in refusal(source.words(tmp_path), capsys, 1)
    assert not (tmp_path / "train").exists()
    assert cli.call(imagenet, source.words(tmp_path), capsys)[0] == 0


def test_places_that_cannot_be_used(source: Source, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refusal(source.words(tmp_path / "file"), capsys)
    assert "No such file" in refusal([f"out={tmp_path / 'o'}", f"train={tmp_path / 'no.tar'}"], capsys)
    assert "nothing to do" in refusal([f"out={tmp_path}"], capsys)
    assert "no train folder in" in refusal([f"out={tmp_path}", "check=true"], capsys)


def hostile(name: str, **options: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in options.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "bad",
    [
        ("../../escaped.JPEG", b"x"),
        ("/tmp/escaped.JPEG", b"x"),
        hostile("link.JPEG", type=tarfile.SYMTYPE, linkname="../../escaped"),
        hostile("hard.JPEG", type=tarfile.LNKTYPE, linkname="a.JPEG"),
        hostile("pipe.JPEG", type=tarfile.FIFOTYPE),
    ],
    ids=["up", "absolute", "link", "hard link", "pipe"],
)
@pytest.mark.parametrize("inner", [True, False])
def test_archives_that_lead_outside(
    bad: tuple[str, bytes] | tarfile.TarInfo, inner: bool, tmp_path: Path, capsys: Capture
) -> None:
    good = ("a.JPEG", jpeg_files.jpeg(1))
    packed = [("n00000001.tar", tree_archives.tar_bytes([good, bad]))] if inner else [("n1.tar", b""), bad]
    path = jpeg_files.write(tmp_path / "x" / "train.tar", tree_archives.tar_bytes(packed))
    assert "no plain file inside the archive: refused" in refusal(
        [f"out={tmp_path / 'x' / 'out'}", f"train={path}"], capsys
    )
    assert not (tmp_path / "x" / "out" / "train").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and not list(tmp_path.glob("**/*escaped*"))


def test_damaged_archives(source: Source, tmp_path: Path, capsys: Capture) -> None:
    data = source.train.read_bytes()
    for name, content in (("cut", data[: len(data) // 2]), ("text", b"no archive" * 99), ("empty", b"")):
        path = jpeg_files.write(tmp_path / f"{name}.tar", content)
        assert "could not unpack" in refusal([f"out={tmp_path / name}", f"train={path}"], capsys)
        assert not (tmp_path / name / "train").exists()
    twice = tree_archives.tar_bytes([("a.JPEG", b"1"), ("b/a.JPEG", b"2")])
    path = jpeg_files.write(tmp_path / "twice.tar", tree_archives.tar_bytes([("n00000001.tar", twice)]))
    assert "holds 'b/a.JPEG' twice" in refusal([f"out={tmp_path / 'twice'}", f"train={path}"], capsys)
    path = jpeg_files.write(
        tmp_path / "none.tar", tree_archives.tar_bytes([("n00000001.tar", tree_archives.tar_bytes([]))])
    )
    assert "holds no image of n00000001" in refusal([f"out={tmp_path / 'none'}", f"train={path}"], capsys)


def test_two_sources_are_not_mixed(source: Source, tmp_path: Path, capsys: Capture) -> None:
    data = source.train.read_bytes()
    cut = jpeg_files.write(tmp_path / "cut.tar", data[: len(data) - 30_000])
    out = tmp_path / "out"
    jpeg_files.write(out / ".train.partial" / "n00000001" / "a.JPEG", b"")
    (out / ".train.partial" / ".source").write_text("other.tar\n")
    assert ".train.partial is a part of other.tar, not of train.tar: delete it" in refusal(source.words(out), capsys)
    shutil.rmtree(out / ".train.partial")
    assert "could not unpack" in refusal([f"out={out}", f"train={cut}"], capsys)


def test_unreadable_and_doubled_images_are_reported(source: Source, tmp_path: Path, capsys: Capture) -> None:
    assert cli.call(imagenet, source.words(tmp_path), capsys)[0] == 0
    train = tmp_path / "train" / "n00000004"
    train.joinpath("n00000004_1.JPEG").write_bytes(jpeg_files.jpeg(1)[:-60])
    train.joinpath("n00000004_2.JPEG").write_bytes(b"")
    jpeg_files.write(train / "n00000004_3.JPEG", jpeg_files.jpeg(5, mode="CMYK"))
    first = next((tmp_path / "val" / "n00000006").iterdir())
    shutil.copy(first, train / "n00000004_0.JPEG")
    line = refusal([f"out={tmp_path}", "check=true"], capsys)
    assert "2 unreadable, 1 both in train and test" in line and "n00000004_1.JPEG: image file is truncated" in line
    report = json.loads((tmp_path / "report.json").read_text())
    part = report["splits"]["train"]
    assert not report["whole"] and list(part["unreadable"]) == [f"train/n00000004/n00000004_{i}.JPEG" for i in (1, 2)]
    assert part["no_ordinary_jpeg"] == {"count": 1, "files": ["train/n00000004/n00000004_3.JPEG"]}
    pair = {"train": "train/n00000004/n00000004_0.JPEG", "test": f"val/n00000006/{first.name}"}
    assert report["in_train_and_test"] == {"count": 1, "files": [pair]}
    assert part["classes"]["n00000004"] == 4


def test_help(capsys: Capture) -> None:
    code, out, _ = cli.call(imagenet, ["--help"], capsys)
    assert code == 0 and "mapping=" in out and "LOC_val_solution.csv" in out


def test_hidden_members_and_linked_sources(source: Source, tmp_path: Path, capsys: Capture) -> None:
    """What a Mac or a network drive put into archives and folders is no image; linked classes are no less."""
    folder = tmp_path / "folder"
    shutil.copytree(source.tree / "train", folder)
    shutil.move(folder / "n00000004", tmp_path / "elsewhere")
    (folder / "n00000004").symlink_to(tmp_path / "elsewhere")
    for hidden in ("__MACOSX/n00000001", "@eaDir", "n00000002/.ipynb_checkpoints", "n00000003/@eaDir/x.JPEG"):
        jpeg_files.write(folder / hidden / "z.jpg", jpeg_files.jpeg(1))
    os.mkfifo(folder / "n00000001" / "pipe.JPEG")
    packed = tmp_path / "train.tar"
    with tarfile.open(packed, "w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, path.relative_to(folder).as_posix())
        for path in (tmp_path / "elsewhere").iterdir():
            tar.add(path, f"n00000004/{path.name}")
    for name, train in (("a", folder), ("b", packed)):
        words = [f"out={tmp_path / name}", f"train={train}", f"val={source.tree / 'val'}"]
        code, out, err = cli.call(imagenet, words, capsys)
        assert code == 0, out + err
        assert images(tmp_path / name) == images(source.tree)
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(source.train) as outer:
        outer.extractall(tars)
    jpeg_files.write(tars / "._n00000001.tar", b"Mac OS X")
    words = [f"out={tmp_path / 'c'}", f"train={tars}", f"val={source.tree / 'val'}"]
    assert cli.call(imagenet, words, capsys)[0] == 0 and images(tmp_path / "c") == images(source.tree)


@pytest.mark.parametrize("key", ["train", "val", "mapping"])
def test_sources_that_are_no_files(key: str, source: Source, tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = [word for word in source.words(tmp_path / "out") if not word.startswith(f"{key}=")]
    assert "no plain file" in refusal([*words, f"{key}={tmp_path / 'pipe'}"], capsys)


def test_a_circle_in_a_source(source: Source, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(source.tree / "train", folder)
    (folder / "n00000002" / "up").symlink_to("..")
    assert "would count twice" in refusal([f"out={tmp_path / 'out'}", f"train={folder}"], capsys)


def test_numbered_classes_are_checked_when_asked_for(tmp_path: Path, capsys: Capture) -> None:
    root = jpeg_files.tree(tmp_path / "tree")
    for split in ("train", "val"):
        for k, folder in enumerate(sorted((root / split).iterdir())):
            folder.rename(root / split / str(9 + k))
    assert "data.classes=numbers takes them" in refusal([f"out={root}", "check=true"], capsys)
    code, line, _ = cli.call(imagenet, [f"out={root}", "check=true", "classes=numbers"], capsys)
    assert code == 0 and "12 train images of 3 classes" in line
