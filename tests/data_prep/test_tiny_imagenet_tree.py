"""Tiny-ImageNet from its archive, in its original layout."""

import json
from pathlib import Path

import cli
import jpeg_files
import pytest
import tree_archives

from data_prep import tiny_imagenet
from pipeline.datasets import DATASETS

Capture = pytest.CaptureFixture[str]
WNIDS = ("n00000003", "n00000001", "n00000002")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    root = tmp_path / "original" / "tiny-imagenet-200"
    for k, wnid in enumerate(WNIDS):
        for i in range(3):
            jpeg_files.write(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", jpeg_files.jpeg(10 * k + i, 64, 64))
        jpeg_files.write(root / "train" / wnid / f"{wnid}_boxes.txt", b"x_0.JPEG\t0\t0\t62\t62\n")
        jpeg_files.write(root / "val" / "images" / f"val_{k}.JPEG", jpeg_files.jpeg(10 * k + 5, 64, 64))
    rows = "".join(f"val_{k}.JPEG\t{wnid}\t0\t32\t44\t62\n" for k, wnid in enumerate(WNIDS))
    (root / "val" / "val_annotations.txt").write_text(rows)
    jpeg_files.write(root / "test" / "images" / "test_0.JPEG", jpeg_files.jpeg(99, 64, 64))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    return root


def test_from_the_archive(original: Path, tmp_path: Path, capsys: Capture) -> None:
    packed = tree_archives.zip_of(original, tmp_path / "tiny-imagenet-200.zip")
    code, line, err = cli.call(tiny_imagenet, [f"out={tmp_path / 'new'}", f"archive={packed}"], capsys)
    assert code == 0 and err == ""
    assert "9 train images of 3 classes, 3 test images of 3 classes; 0 unreadable, 0 both in train and test" in line
    tree = tmp_path / "new" / "tiny-imagenet-200"
    made = tree_archives.content(tree)
    added = [".stillhouse-tiny_imagenet-test.index.npz", ".stillhouse-tiny_imagenet-train.index.npz", "report.json"]
    assert sorted(made.keys() - tree_archives.content(original).keys()) == added
    assert {path: made[path] for path in made if path not in added} == tree_archives.content(original)
    for split in ("train", "test"):
        given, found = (DATASETS.get("tiny")(root=root, split=split) for root in (original, tmp_path / "new"))
        assert given.fingerprint() == found.fingerprint()
    (tree / "val" / "images" / "val_1.JPEG").write_bytes(jpeg_files.jpeg(5)[:-60])
    code, _, err = cli.call(tiny_imagenet, [f"out={tmp_path / 'new'}", "check=true"], capsys)
    assert code == 2 and "1 unreadable" in err and "val/images/val_1.JPEG: image file is truncated" in err
    assert not json.loads((tree / "report.json").read_text())["whole"]


def test_what_cannot_be_used(original: Path, tmp_path: Path, capsys: Capture) -> None:
    packed = tree_archives.zip_of(original, tmp_path / "x.zip")
    data = packed.read_bytes()
    cut = jpeg_files.write(tmp_path / "cut.zip", data[: len(data) // 2])
    other = tree_archives.zip_of(original / "val", tmp_path / "val.zip")
    escaped = jpeg_files.write(tmp_path / "up.tar", tree_archives.tar_bytes([("tiny-imagenet-200/../../x", b"x")]))
    (tmp_path / "file").write_text("")
    out = f"out={tmp_path / 'out'}"
    for words, message in (
        ([out, f"archive={cut}"], "could not unpack"),
        ([out, f"archive={other}"], "lies outside tiny-imagenet-200/"),
        ([out, f"archive={escaped}"], "no plain file inside the archive: refused"),
        ([out], "nothing to do"),
        ([out, "check=true"], "no wnids.txt in"),
        ([f"out={tmp_path / 'file'}", f"archive={packed}"], "file: "),
        (["archive=x.zip"], "out"),
    ):
        code, _, err = cli.call(tiny_imagenet, words, capsys)
        assert code == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out" / "tiny-imagenet-200").exists()
    assert cli.call(tiny_imagenet, [out, f"archive={packed}"], capsys)[0] == 0


def test_help(capsys: Capture) -> None:
    code, out, _ = cli.call(tiny_imagenet, ["--help"], capsys)
    assert code == 0 and "archive=" in out
