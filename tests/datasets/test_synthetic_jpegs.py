"""Generated JPEGs: the same for a seed, like ImageNet's in what they cost, and learnable."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet
from pipeline.datasets.synthetic_jpegs import kind, write_jpeg_tree


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("jpegs")
    write_jpeg_tree(out, classes=5, train_per_class=12, val_per_class=4, seed=0, workers=1)
    return out


def files(root: Path, split: str = "train") -> FileSet:
    return DATASETS.get("imagenet")(root=root, split=split)


def test_layout(root: Path) -> None:
    assert len(files(root)) == 60 and len(files(root, "test")) == 20 and files(root).num_classes == 5
    assert all(path.endswith(".JPEG") for path in content(root)) and len(set(content(root).values())) == 80


def test_a_smaller_tree_of_the_seed_is_part_of_it(root: Path, tmp_path: Path) -> None:
    write_jpeg_tree(tmp_path / "same", classes=2, train_per_class=2, val_per_class=1, seed=0, workers=2)
    write_jpeg_tree(tmp_path / "other", classes=2, train_per_class=2, val_per_class=1, seed=1, workers=2)
    whole, same, other = content(root), content(tmp_path / "same"), content(tmp_path / "other")
    assert len(same) == 6 and all(whole[path] == data for path, data in same.items())
    assert not set(other.values()) & set(whole.values())


def test_sizes_like_those_of_imagenet(root: Path) -> None:
    """Bounds around what 200 of them measure: 100 kB, 0.61 bytes per pixel, 432 x 379 (docs/data.md)."""
    found = files(root)
    size_N2 = np.array([found.size(i) for i in range(len(found))])
    byte_N = np.array([len(found.read_bytes(i)) for i in range(len(found))])
    assert (400 < size_N2[:, 1].mean() < 500) and (340 < size_N2[:, 0].mean() < 430)
    assert 80_000 < byte_N.mean() < 130_000 and 0.5 < (byte_N / size_N2.prod(axis=1)).mean() < 0.7


def test_a_class_can_be_told_by_its_colour(root: Path) -> None:
    """The simplest of what a network can see: the mean colour beside the tints, greys left out."""
    tint_KC = np.array([kind(label).tint_C for label in range(5)])
    right, coloured = 0, 0
    for found in (files(root), files(root, "test")):
        for i in range(len(found)):
            colour_C = found.read(i).mean(axis=(0, 1))
            shade_C = colour_C - colour_C.mean()
            if np.abs(shade_C).max() > 0:
                coloured += 1
                right += int(np.argmin(((tint_KC - shade_C) ** 2).sum(axis=1))) == found.label_N[i]
    assert coloured >= 75 and right / coloured > 0.7


def test_a_thousand_classes_differ() -> None:
    kinds = {(*kind(label).stripe_YX, *kind(label).tint_C.tolist()) for label in range(1000)}
    assert len(kinds) == 1000


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        write_jpeg_tree(tmp_path / "file", classes=1, train_per_class=1, val_per_class=0)
