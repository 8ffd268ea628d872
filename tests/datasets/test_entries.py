"""What lies in a tree beside its images: hidden folders, links, files that are no files. Every walker, one rule."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import jpeg_files
import pytest

from data_prep.check_tree import check_tree
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet, entries

WNIDS = ["n00000001", "n00000002", "n00000003"]
HIDDEN = [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "#recycle", ".Trash-1000"]
HIDDEN += ["~snapshot", "@__thumb", "Network Trash Folder"]


def tiny(root: Path) -> Path:
    """The same images in the layout of Tiny-ImageNet, sorted anew."""
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda root: root,
    "imagenet": lambda root: root,
    "tiny_imagenet": tiny,
}


def load(name: str, root: Path, split: str = "train", index: str = "off") -> FileSet:
    return DATASETS.get(name)(root=root, split=split, index=index)


@pytest.fixture(params=LAYOUTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(name: str, tmp_path: Path) -> Path:
    return LAYOUTS[name](jpeg_files.tree(tmp_path / "tree"))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_folders_hold_no_images(hidden: str, name: str, root: Path) -> None:
    before = [load(name, root, split) for split in ("train", "test")]
    for folder in (root, root / "train", root / "val", root / "train" / WNIDS[0], root / "val" / WNIDS[2]):
        jpeg_files.write(folder / hidden / "x.jpg", jpeg_files.jpeg(1))
        jpeg_files.write(folder / hidden / WNIDS[1] / "y.JPEG", jpeg_files.jpeg(1))
    after = [load(name, root, split) for split in ("train", "test")]
    assert [list(a.paths) for a in after] == [list(b.paths) for b in before]
    assert after[0].class_names == tuple(WNIDS)
    assert [f.fingerprint() for f in after] == [f.fingerprint() for f in before]
    indexed = [load(name, root, "train", how) for how in ("rebuild", "auto")]
    assert [f.fingerprint() for f in indexed] == [before[0].fingerprint()] * 2
    assert "12 train images of 3 classes" in check_tree(name, root, {"train": 12, "test": 6}, 1)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/"])
def test_links_to_a_folder_above(target: str, tmp_path: Path) -> None:
    root = jpeg_files.tree(tmp_path / "tree")
    (root / "train" / WNIDS[0] / "loop").symlink_to(target)
    with pytest.raises(InputError, match=r"loop .*would count twice") as caught:
        load("folder", root)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"loop .*would count twice"):
        load("folder", root, "train", "rebuild")
    with pytest.raises(InputError, match=r"loop .*would count twice"):
        check_tree("folder", root, {"train": 12, "test": 6}, 1)


def test_a_circle_outside_of_the_tree(tmp_path: Path) -> None:
    root = jpeg_files.tree(tmp_path / "tree")
    jpeg_files.write(tmp_path / "store" / "deep" / "x.jpg", jpeg_files.jpeg(1))
    (root / "train" / WNIDS[0] / "more").symlink_to(tmp_path / "store")
    assert len(load("folder", root)) == 13
    (tmp_path / "store" / "deep" / "again").symlink_to(tmp_path / "store")
    with pytest.raises(InputError, match=r"again and .*more are one folder"):
        load("folder", root)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        (f"train/{WNIDS[0]}/other", f"../{WNIDS[1]}"),
        (f"train/{WNIDS[2]}/other", f"../{WNIDS[1]}"),
        (f"train/{WNIDS[0]}/other", f"../../val/{WNIDS[1]}"),
        (f"train/{WNIDS[0]}/other.JPEG", f"../{WNIDS[1]}/{WNIDS[1]}_0.JPEG"),
        (f"train/{WNIDS[2]}/other.JPEG", f"../../val/{WNIDS[1]}/{WNIDS[1]}_0.JPEG"),
    ],
)
def test_links_into_another_class(link: str, target: str, name: str, root: Path) -> None:
    (root / link).symlink_to(target)
    with pytest.raises(InputError, match=rf"{link} is a link into class 'n00000002'"):
        load(name, root)


@pytest.mark.parametrize("target", [WNIDS[1], f"../val/{WNIDS[0]}", ".", ".."])
def test_class_folders_that_lead_to_another_one(target: str, name: str, root: Path) -> None:
    for path in (root / "train" / WNIDS[0]).iterdir():
        path.unlink()
    (root / "train" / WNIDS[0]).rmdir()
    (root / "train" / WNIDS[0]).symlink_to(target)
    if target.endswith(WNIDS[0]):  # of the same class, in the other split: somebody means it
        assert len(load(name, root)) == 10
        return
    with pytest.raises(InputError, match="would count twice"):
        load(name, root)


def test_linked_classes_and_images_stay(name: str, root: Path) -> None:
    """Class folders, folders inside them and images may lie elsewhere."""
    before = load(name, root)
    store = root.parent / "store"
    store.mkdir()
    (root / "train" / WNIDS[0]).rename(store / "anywhere")
    (root / "train" / WNIDS[0]).symlink_to(store / "anywhere")
    for path in list((root / "train" / WNIDS[1]).iterdir()):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    found = load(name, root)
    assert list(found.paths) == list(before.paths) and found.fingerprint() == before.fingerprint()
    assert all(found.read(i).shape == (*found.size(i), 3) for i in range(len(found)))
    (root / "val").rename(store / "val")
    (root / "val").symlink_to("train")  # the validation of those who only try
    assert len(load(name, root, "test")) == len(before)


def test_a_lost_link_is_no_smaller_set(name: str, root: Path) -> None:
    (root / "train" / WNIDS[0] / "lost.JPEG").symlink_to("/nowhere/x.JPEG")
    found = load(name, root)
    assert len(found) == 13
    with pytest.raises(InputError, match=r"lost\.JPEG .*No such file"):
        found.read(list(found.paths).index(f"train/{WNIDS[0]}/lost.JPEG"))
    (root / "train" / "n00000009").symlink_to("/nowhere")
    with pytest.raises(InputError, match="n00000009 is a link that leads nowhere"):
        load(name, root)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.fspath(path)),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("special", SPECIAL)
def test_only_plain_files_are_images(
    special: str, name: str, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(name, root)
    monkeypatch.chdir(root / "train" / WNIDS[1])  # a socket's path has at most 108 bytes
    SPECIAL[special](Path("x.JPEG"))
    found = load(name, root)
    assert list(found.paths) == list(before.paths)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{WNIDS[1]}/x.JPEG is no plain file" in err and "left out" in err
    assert load(name, root, "train", "rebuild").fingerprint() == before.fingerprint()


def test_a_folder_called_like_an_image(name: str, root: Path) -> None:
    jpeg_files.write(root / "train" / WNIDS[0] / "dir.JPEG" / "x.JPEG", jpeg_files.jpeg(1))
    assert len(load(name, root)) == 12 + (name == "folder")  # whose classes may have folders inside


@pytest.mark.parametrize("special", ["fifo", "link to a device"])
@pytest.mark.parametrize("act", ["read", "read_bytes", "encoded", "size", "check"])
def test_a_file_that_becomes_something_else_is_named(special: str, act: str, tmp_path: Path) -> None:
    root = jpeg_files.tree(tmp_path)
    found = load("imagenet", root)
    path = root / found.paths[5]
    path.unlink()
    SPECIAL[special](path)
    with pytest.raises(InputError, match=rf"cannot decode {path} .*no plain file") as caught:
        getattr(found, act)(5)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = jpeg_files.tree(tmp_path)
    jpeg_files.write(root / "train" / WNIDS[0] / "deep" / "x.jpg", jpeg_files.jpeg(1))
    scan = os.scandir

    def refusing(folder: Path) -> object:
        if str(folder).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(entries.os, "scandir", refusing)
    with pytest.raises(InputError, match=r"deep cannot be read: Permission denied"):
        load("folder", root)
