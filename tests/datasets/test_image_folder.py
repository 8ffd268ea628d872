"""Class folders of images."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS


def picture(path: Path, height: int = 5, width: int = 7, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPEG", "c.webp", "deep/0.bmp", "d.jpg"):
        picture(tmp_path / "train" / "zebra" / name)
    picture(tmp_path / "train" / "Ant" / "x.ppm", 8, 3)
    picture(tmp_path / "train" / "ant" / "y.jpg")
    for name in ("notes.txt", ".hidden.jpg"):
        (tmp_path / "train" / "ant" / name).write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "list.txt").write_text("no folder")
    picture(tmp_path / "val" / "zebra" / "1.png")
    picture(tmp_path / "val" / "ant" / "2.png")
    return tmp_path


def test_order_and_labels(root: Path) -> None:
    found = DATASETS.get("folder")(root=root, split="train")
    assert found.class_names == ("Ant", "ant", "zebra")
    files = ["Ant/x.ppm", "ant/y.jpg", "zebra/a.JPEG", "zebra/b.png", "zebra/c.webp", "zebra/d.jpg", "zebra/deep/0.bmp"]
    assert found.sample_ids() == ["train/" + file for file in files]
    assert found.label_N.tolist() == [0, 1, 2, 2, 2, 2, 2] and found.label_N.dtype == np.int64
    assert found.size(0) == (8, 3) and found.read(0).shape == (8, 3, 3)
    for index in range(1, len(found)):
        assert found.size(index) == (5, 7)
        assert (found.read(index) == 90).all()


def test_test_split_uses_the_numbers_of_the_training_folders(root: Path) -> None:
    found = DATASETS.get("folder")(root=root, split="test")
    assert found.sample_ids() == ["val/ant/2.png", "val/zebra/1.png"]
    assert found.label_N.tolist() == [1, 2] and found.num_classes == 3
    before = found.fingerprint()
    (root / "val").rename(root / "test")
    assert DATASETS.get("folder")(root=root, split="test").sample_ids() == ["test/ant/2.png", "test/zebra/1.png"]
    assert before == found.fingerprint()


def test_fingerprint_does_not_depend_on_the_place(root: Path) -> None:
    before = DATASETS.get("folder")(root=root, split="train").fingerprint()
    moved = root.rename(root.parent / "moved")
    assert DATASETS.get("folder")(root=moved, split="train").fingerprint() == before
    (moved / "train" / "ant" / "y.jpg").rename(moved / "train" / "ant" / "z.jpg")
    assert DATASETS.get("folder")(root=moved, split="train").fingerprint() != before


def test_missing_folders(root: Path, tmp_path: Path) -> None:
    (root / "val").rename(root / "valid")
    with pytest.raises(
        InputError, match=r"no val or test folder in .*: expected .*/train/CLASS/\* and .*/val/CLASS/\*"
    ):
        DATASETS.get("folder")(root=root, split="test")
    (root / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no class folder in .*: expected"):
        DATASETS.get("folder")(root=root / "empty", split="train")
    with pytest.raises(InputError, match="no train folder in"):
        DATASETS.get("folder")(root=root / "nowhere", split="train")
    with pytest.raises(InputError, match=r"expected data\.root/train"):
        DATASETS.get("folder")(root=None, split="train")


def test_classes_that_do_not_fit(root: Path) -> None:
    picture(root / "val" / "gnu" / "1.png")
    with pytest.raises(InputError, match=r"val/gnu has no counterpart in .*train"):
        DATASETS.get("folder")(root=root, split="test")
    (root / "train" / "gnu").mkdir()
    (root / "train" / "gnu" / "notes.txt").write_text("")
    with pytest.raises(InputError, match="class 'gnu' is empty"):
        DATASETS.get("folder")(root=root, split="train")
    (root / "val" / "gnu" / "1.png").unlink()
    with pytest.raises(InputError, match="class 'gnu' is empty"):
        DATASETS.get("folder")(root=root, split="test")


def test_undecodable_files_are_named(root: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(whole, "PNG")
    (root / "train" / "zebra" / "b.png").write_bytes(whole.getvalue()[:60])
    (root / "train" / "zebra" / "c.webp").write_text("no image")
    (root / "train" / "zebra" / "d.jpg").write_bytes(b"")
    found = DATASETS.get("folder")(root=root, split="train")
    (root / "train" / "ant" / "y.jpg").unlink()
    for index, name in ((1, "ant/y.jpg"), (3, "zebra/b.png"), (4, "zebra/c.webp"), (5, "zebra/d.jpg")):
        shown = rf"cannot decode .*train/{name} \(class '{name.split('/')[0]}', index {index}\): \w"
        with pytest.raises(InputError, match=shown) as caught:
            found.read(index)
        assert "\n" not in str(caught.value)
    for index in (1, 4, 5):
        with pytest.raises(InputError, match=f"index {index}"):
            found.size(index)
