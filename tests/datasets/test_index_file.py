"""The index: the same set as a walk finds, never a stale or damaged one."""

from collections.abc import Callable
from pathlib import Path

import jpeg_files
import numpy as np
import pytest

from pipeline.datasets import DATASETS, FileSet, index_file, walk
from pipeline.datasets.path_table import PathTable

INDEX = ".stillhouse-imagenet-train.index.npz"


def load(root: Path, index: str = "auto", name: str = "imagenet", split: str = "train") -> FileSet:
    return DATASETS.get(name)(root=root, split=split, index=index)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return jpeg_files.aged(jpeg_files.tree(tmp_path / "tree"))


@pytest.fixture
def no_walk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called: from now on a walk fails."""

    def forbid() -> None:
        monkeypatch.setattr(index_file, "measured", lambda found: pytest.fail("walked"))
        monkeypatch.setattr("pipeline.datasets.walk.Walk.file_set", lambda walk: pytest.fail("walked"))

    return forbid


def same(a: FileSet, b: FileSet) -> bool:
    return list(a.paths) == list(b.paths) and a.fingerprint() == b.fingerprint() and a.class_names == b.class_names


@pytest.mark.parametrize("name", ["imagenet", "folder"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_index_gives_the_same_set(name: str, split: str, root: Path, no_walk: Callable[[], None]) -> None:
    walked = load(root, "off", name, split)
    assert walked.size_N2 is None and not list(root.glob(".*"))
    built = load(root, "rebuild", name, split)
    no_walk()
    read = load(root, "auto", name, split)
    assert same(walked, read) and same(walked, built) and isinstance(read.paths, PathTable)
    for i in range(len(read)):
        assert read.size(i) == walked.size(i) == read.read(i).shape[:2]
        assert read.byte_N[i] == len(read.read_bytes(i))


def test_small_sets_get_none_and_large_ones_do(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load(root)
    assert not list(root.glob(".*"))
    monkeypatch.setattr(index_file, "WORTH", 11)
    load(root)
    assert [path.name for path in root.glob(".*")] == [INDEX]
    assert "note: reading the sizes of 12 images" in capsys.readouterr().err


def add(root: Path) -> None:
    jpeg_files.write(root / "train" / "n00000002" / "new.JPEG", jpeg_files.jpeg(9))


def rename(root: Path) -> None:
    (root / "train" / "n00000002" / "n00000002_1.JPEG").rename(root / "train" / "n00000002" / "x.JPEG")


def remove(root: Path) -> None:
    (root / "train" / "n00000003" / "n00000003_0.JPEG").unlink()


def new_class(root: Path) -> None:
    jpeg_files.write(root / "train" / "n00000009" / "new.JPEG", jpeg_files.jpeg(9))


def cut(root: Path) -> None:
    content = (root / INDEX).read_bytes()
    (root / INDEX).write_bytes(content[: len(content) // 2])


def flip(root: Path) -> None:
    content = bytearray((root / INDEX).read_bytes())
    content[content.find(b"n00000002_1") + 3] ^= 1
    (root / INDEX).write_bytes(content)


def changed(**arrays: np.ndarray) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with np.load(root / INDEX) as file:
            held = {key: file[key] for key in file.files}
        np.savez(root / INDEX, **{**held, **arrays})

    return change


DAMAGE = {
    "added file": (add, "n00000002 has changed"),
    "renamed file": (rename, "n00000002 has changed"),
    "removed file": (remove, "n00000003 has changed"),
    "added class": (new_class, "train has changed"),
    "cut short": (cut, "damaged"),
    "one bit": (flip, "damaged"),
    "empty": (lambda root: (root / INDEX).write_bytes(b""), "damaged"),
    "text": (lambda root: (root / INDEX).write_text("no index"), "damaged"),
    "other version": (changed(header=np.array(["0", "imagenet", "train"])), "another set or version"),
    "other set": (changed(header=np.array(["1", "folder", "train"])), "another set or version"),
    "pickle": (changed(label_N=np.array([{}], dtype=object)), "damaged"),
    "labels": (changed(label_N=np.full(12, 3)), "a label without a class"),
    "lengths": (changed(label_N=np.zeros(11)), "unequal length"),
    "outside": (changed(folders=np.frombuffer(b"../a\0b\0c\0", np.uint8)), "out of the data set"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_stale_and_damaged_ones_are_not_used(damage: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    act, reason = DAMAGE[damage]
    load(root, "rebuild")
    act(root)
    found = load(root)
    assert same(found, load(root, "off"))
    note = capsys.readouterr().err
    assert note.startswith("note: ") and note.count("\n") == 1 and reason in note


def test_a_folder_that_has_just_changed_is_not_trusted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "STEP_NS", 600_000_000_000)  # all the time that this test may take
    add(root)
    load(root, "rebuild")
    with np.load(root / INDEX) as file:
        age = dict(zip(file["marks"].tobytes().decode().split("\0"), file["age_M"].tolist(), strict=False))
    assert [mark for mark, at in age.items() if at < 0] == ["train/n00000002"]


def test_nested_and_missing_folders_count(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """dataset=folder reads folders inside a class, and ROOT/test only where there is no ROOT/val."""
    (root / "val").rename(root / "test")
    (root / "train" / "n00000001" / "empty").mkdir()
    jpeg_files.aged(root)
    for split in ("train", "test"):
        load(root, "rebuild", "folder", split)
        assert load(root, "auto", "folder", split).size_N2 is not None
    assert capsys.readouterr().err == ""
    jpeg_files.write(root / "train" / "n00000001" / "empty" / "x.JPEG", jpeg_files.jpeg(1))
    jpeg_files.write(root / "val" / "n00000001" / "x.JPEG", jpeg_files.jpeg(1))
    assert len(load(root, "auto", "folder")) == 13
    assert list(load(root, "auto", "folder", "test").paths) == ["val/n00000001/x.JPEG"]


def test_a_root_that_cannot_be_written_costs_a_note(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_file.np, "savez", refuse)
    found = load(root, "rebuild")
    assert len(found) == 12 and found.size_N2 is not None and not list(root.glob(".*"))
    note = capsys.readouterr().err
    assert note.count("\n") == 1 and "no index can be written" in note and "No space left" in note


def test_unreadable_headers_keep_an_unknown_size(root: Path) -> None:
    bad = root / "train" / "n00000001" / "n00000001_0.JPEG"
    bad.write_bytes(b"")
    found = load(root, "rebuild")
    assert found.size_N2[0].tolist() == [0, 0] and found.size(1) == (21, 28)
    bad.write_bytes(jpeg_files.jpeg(3, 30, 40))
    assert found.size(0) == (30, 40)
