"""Tiny-ImageNet: all layouts in which people have it, and what is wrong with those that are damaged."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import web
from loader_configs import loader_config
from PIL import Image

from pipeline.config import TrainConfig, compose
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet, tiny_imagenet
from pipeline.loaders import LOADERS

WNIDS = ("n03", "n01", "n02")  # not sorted, as published
VAL = {"val_0.JPEG": "n02", "val_1.JPEG": "n01", "val_10.JPEG": "n03", "val_2.JPEG": "n01"}


def picture(path: Path, value: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (64, 64), value if mode == "L" else (value, value, value)).save(path, "JPEG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The published layout: three classes of two training images, one of them grey."""
    folder = tmp_path / "tiny-imagenet-200"
    for label, wnid in enumerate(sorted(WNIDS)):
        for k in (10, 9):
            picture(folder / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", 40 * label + k, "L" if k == 9 else "RGB")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("n_9.JPEG\t0\t0\t62\t62\n")
    for k, name in enumerate(VAL):
        picture(folder / "val" / "images" / name, 50 * k)
    (folder / "val" / "val_annotations.txt").write_text("".join(f"{n}\t{w}\t0\t32\t44\t62\n" for n, w in VAL.items()))
    picture(folder / "test" / "images" / "test_0.JPEG", 1)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish\n")
    return folder


def load(root: Path, split: str = "test") -> FileSet:
    return DATASETS.get("tiny_imagenet")(root=root, split=split)


def refusal(root: Path, split: str = "test") -> str:
    with pytest.raises(InputError) as caught:
        load(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_training_set(root: Path) -> None:
    found = load(root, "train")
    assert found.class_names == ("n01", "n02", "n03")
    assert found.label_N.tolist() == [0, 0, 1, 1, 2, 2] and found.label_N.dtype == np.int64
    assert found.sample_ids()[:2] == ["train/n01/images/n01_10.JPEG", "train/n01/images/n01_9.JPEG"]
    for index in range(6):
        pixels_HWC = found.read(index)
        assert pixels_HWC.shape == (64, 64, 3) and found.size(index) == (64, 64)
        assert abs(int(pixels_HWC.mean()) - 40 * int(found.label_N[index]) - (10, 9)[index % 2]) <= 1


def test_grey_images_are_what_pillow_makes_of_them(root: Path) -> None:
    path = root / "train" / "n01" / "images" / "n01_9.JPEG"
    noise = np.random.Generator(np.random.Philox(3)).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    with Image.open(path) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(load(root, "train").read(1), np.asarray(image.convert("RGB")))


def test_validation_set_by_its_annotations(root: Path) -> None:
    found = load(root)
    assert found.sample_ids() == [f"val/images/{n}" for n in ("val_1.JPEG", "val_2.JPEG", "val_0.JPEG", "val_10.JPEG")]
    assert found.label_N.tolist() == [0, 0, 1, 2]
    assert [round(float(found.read(i).mean())) for i in range(4)] == [50, 150, 0, 100]


def sort_anew(root: Path, below: str) -> None:
    for name, wnid in VAL.items():
        target = root / "val" / wnid / below / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "val" / "images" / name).rename(target)


@pytest.mark.parametrize("below", ["images", "."])
@pytest.mark.parametrize("left", ["all", "empty folder", "nothing"])
def test_validation_set_sorted_anew(below: str, left: str, root: Path) -> None:
    before = load(root)
    sort_anew(root, below)
    if left != "all":
        (root / "val" / "val_annotations.txt").unlink()
    if left == "nothing":
        (root / "val" / "images").rmdir()
    after = load(root)
    assert after.label_N.tolist() == before.label_N.tolist()
    assert [Path(p).name for p in after.sample_ids()] == [Path(p).name for p in before.sample_ids()]
    for index in range(len(before)):
        assert (after.root / after.paths[index]).is_file()


def test_flat_training_folders(root: Path) -> None:
    before = load(root, "train").label_N.tolist()
    for wnid in WNIDS:
        for path in (root / "train" / wnid / "images").iterdir():
            path.rename(root / "train" / wnid / path.name)
        (root / "train" / wnid / "images").rmdir()
    found = load(root, "train")
    assert found.label_N.tolist() == before and found.sample_ids()[0] == "train/n01/n01_10.JPEG"


@pytest.mark.parametrize("name", ["tiny_imagenet", "tiny-imagenet", "tiny"])
def test_the_parent_folder_will_do(name: str, root: Path) -> None:
    found = DATASETS.get(name)(root=root.parent, split="test")
    assert found.root == root and found.fingerprint() == load(root).fingerprint() and found.num_classes == 3


@pytest.mark.parametrize("loader", ["resident", "torch"])
def test_loaders(loader: str, root: Path) -> None:
    how = loader_config(batch_size=4, image_size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), train=False)
    batch = next(iter(LOADERS.get(loader)(load(root), how)))
    assert batch.image_BCHW.shape == (4, 3, 64, 64) and batch.label_B.tolist() == [0, 0, 1, 2]
    assert [round(float(image.mean() * 255)) for image in batch.image_BCHW] == [50, 150, 0, 100]


def annotate(root: Path, text: str) -> None:
    (root / "val" / "val_annotations.txt").write_text(text)


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no wnids": (lambda r: (r / "wnids.txt").unlink(), "test", "no wnids.txt in .*dataset=folder"),
    "empty wnids": (lambda r: (r / "wnids.txt").write_text("\n"), "test", "wnids.txt lists no class"),
    "doubled wnid": (lambda r: (r / "wnids.txt").write_text("n01\nn01"), "test", "lists class 'n01' twice"),
    "no train": (lambda r: shutil.rmtree(r / "train"), "train", "train cannot be read: No such file"),
    "no val": (lambda r: shutil.rmtree(r / "val"), "test", "val cannot be read: No such file"),
    "no folder": (
        lambda r: shutil.rmtree(r / "train" / "n02"),
        "train",
        "class 'n02' is empty: no image of it in .*train",
    ),
    "empty class": (lambda r: shutil.rmtree(r / "train" / "n02" / "images"), "train", "class 'n02' is empty"),
    "unknown folder": (lambda r: (r / "train" / "n09").mkdir(), "train", "train/n09 is no class of .*wnids.txt"),
    "unknown wnid": (lambda r: annotate(r, "val_0.JPEG\tn09\t0"), "test", "line 1: 'n09' is no class of .*wnids.txt"),
    "no wnid": (lambda r: annotate(r, "\nval_0.JPEG"), "test", "line 2: '' is no class"),
    "listed file is missing": (
        lambda r: (r / "val" / "images" / "val_1.JPEG").unlink(),
        "test",
        "line 2: 'val_1.JPEG' is not in .*val/images",
    ),
    "listed twice": (lambda r: annotate(r, "val_0.JPEG\tn01\nval_0.JPEG\tn02"), "test", "line 2: .* is listed twice"),
    "unlisted": (lambda r: annotate(r, "val_0.JPEG\tn01"), "test", "lists 1 images, .*val/images holds 4"),
    "no annotations": (
        lambda r: (r / "val" / "val_annotations.txt").unlink(),
        "test",
        "holds neither val_annotations.txt nor a folder for each class",
    ),
    "half sorted": (lambda r: (r / "val" / "n01").mkdir(), "test", "half sorted: .* 4 images are still in images/"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damage: str, root: Path) -> None:
    act, split, message = DAMAGE[damage]
    act(root)
    with pytest.raises(InputError, match=message) as caught:
        load(root, split)
    assert "\n" not in str(caught.value)


def test_root_above_and_below(root: Path) -> None:
    assert f"data.root={root} holds one" in refusal(root / "train")
    assert "http://cs231n.stanford.edu/tiny-imagenet-200.zip" in refusal(root / ".." / "nothing")
    with pytest.raises(InputError, match=r"needs data\.root"):
        DATASETS.get("tiny")(split="train")
    with pytest.raises(InputError, match="unknown split 'val'"):
        DATASETS.get("tiny")(root=root, split="val")


def test_download(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "z", "w") as packed:
        for path in sorted(root.rglob("*")):
            packed.write(path, path.relative_to(root.parent))
    content = (tmp_path / "z").read_bytes()
    with web.serve() as site:
        site.files["tiny-imagenet-200.zip"] = content
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setattr(tiny_imagenet, "ARCHIVE", replace(tiny_imagenet.ARCHIVE, base_url=site.url, md5=md5))
        found = DATASETS.get("tiny")(root=tmp_path / "new", split="train", download=True)
    assert found.fingerprint() == load(root, "train").fingerprint()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["tiny-imagenet-200", "tiny-imagenet-200.zip"]


def test_recipes() -> None:
    def keys(*words: str) -> TrainConfig:
        return compose(TrainConfig, ["dataset=tiny_imagenet", *words])

    plain, other = keys(), keys("recipe=mdistiller")
    assert (plain.data.crop, plain.data.padding, plain.data.rotation, plain.data.mean[0]) == ("pad", 8, 0.0, 0.485)
    assert (plain.optim.lr, plain.optim.epochs, plain.data.batch_size, plain.networks) == (0.05, 240, 64, "cifar")
    assert (other.data.crop, other.data.rotation, other.data.mean[0]) == ("none", 20.0, 0.4802)
    assert (other.optim.lr, other.optim.epochs, other.data.batch_size, other.networks) == (0.2, 200, 256, "tiny")
    assert other.optim.milestones == (60, 120, 160) and plain.data.image_size == other.data.image_size == 64


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("table", ["wnids.txt", "val/val_annotations.txt"])
def test_tables_as_other_systems_save_them(table: str, end: str, root: Path) -> None:
    before = [load(root, split) for split in ("train", "test")]
    text = (root / table).read_text()
    (root / table).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", end).encode())
    after = [load(root, split) for split in ("train", "test")]
    assert [a.fingerprint() for a in after] == [b.fingerprint() for b in before]
    assert after[0].class_names == before[0].class_names
    (root / table).write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match=rf"{Path(table).name} is text in UTF-16: save it as UTF-8$"):
        load(root, "test")
