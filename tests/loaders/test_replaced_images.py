"""Images that cannot be read, replaced: the same pixels everywhere, and the trainer knows of each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jpeg_tree import by_pillow, jpeg_set
from PIL import Image
from small_sets import configured, normalised

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.image_set import FileSet
from pipeline.datasets.replacing import ReplacingSet
from pipeline.loaders import LOADERS
from pipeline.loaders.config import LoaderConfig

WAYS = pytest.mark.parametrize(
    ("name", "workers"), [("torch", 0), ("torch", 1), ("torch", 3), ("resident", 0), ("resident", 2)]
)
# Three classes of 10: the last of class 0, two neighbours of class 1, the first of class 2.
SHOWN = {9: 0, 14: 16, 15: 16, 20: 21}


@pytest.fixture
def images(tmp_path: Path) -> FileSet:
    made = jpeg_set(tmp_path, n=30)
    for index in SHOWN:
        path = tmp_path / made.paths[index]
        data = path.read_bytes()
        path.write_bytes({9: b"", 14: data[: len(data) // 2], 15: b"no image", 20: data[:-60]}[index])
    return made


def how(**changes: Any) -> LoaderConfig:
    return configured(**{"crop": "window", "flip": True, "batch_size": 7, "image_size": 24, **changes})


def expected(images: FileSet, index: int, view: int) -> np.ndarray:
    """Drawn for `index`, of the size and the pixels of what is shown."""
    shown = SHOWN.get(index, index)
    image = Image.open(images.root / images.paths[shown]).convert("RGB")
    one, sizes = np.array([index]), (np.array([image.height]), np.array([image.width]))
    top, left, height, width = views.resized_crop_windows(8, view, one, *sizes)[0].tolist()
    small = image.crop((left, top, left + width, top + height)).resize((24, 24), Image.Resampling.BILINEAR)
    pixels = np.asarray(small)
    return normalised(pixels[:, ::-1] if np.asarray(views.flips(8, view, one))[0] else pixels)


@WAYS
def test_the_next_of_the_class_is_shown_and_told(name: str, workers: int, images: FileSet) -> None:
    loader = LOADERS.get(name)(ReplacingSet(images), how(workers=workers))
    seen: set[int] = set()
    for epoch in (0, 1):
        for batch in loader:
            index_B = batch.index_B.tolist()
            seen.update(index_B)
            assert batch.label_B.tolist() == images.label_N[index_B].tolist()
            for image, index in zip(batch.image_BCHW.numpy(), index_B, strict=True):
                assert np.array_equal(image, expected(images, index, epoch))
            # What has been handed out is known, though workers are ahead of it.
            assert {index for index in SHOWN if index in seen} <= set(loader.replaced)
    assert list(loader.replaced) == list(SHOWN)
    for index, row in loader.replaced.items():
        assert row["split"] == "train" and row["index"] == index and row["file"] == images.paths[index]
        assert row["class"] == f"class{index // 10}" and row["shown"] == images.paths[SHOWN[index]]
        assert row["file"] in row["reason"] and f"index {index})" in row["reason"]


@WAYS
def test_an_epoch_left_early_loses_no_find(name: str, workers: int, images: FileSet) -> None:
    loader = LOADERS.get(name)(ReplacingSet(images), how(workers=workers))
    for _ in loader:
        break
    loader.set_epoch(0)
    assert len(list(loader)) == 5 and list(loader.replaced) == list(SHOWN)


def test_crops_and_evaluation_replace_too(images: FileSet) -> None:
    for changes in ({"crop": "none"}, {"train": False}):
        plain = LOADERS.get("torch")(ReplacingSet(images), how(workers=2, **changes))
        other = LOADERS.get("resident")(ReplacingSet(images), how(**changes))
        for a, b in zip(plain, other, strict=True):
            assert torch.equal(a.image_BCHW, b.image_BCHW)
        assert plain.replaced == other.replaced and list(plain.replaced) == list(SHOWN)


def test_a_set_that_replaces_nothing_has_no_list(images: FileSet) -> None:
    loader = LOADERS.get("torch")(images, how())
    assert loader.replaced == {}
    with pytest.raises(InputError, match=r"cannot decode .*class"):
        list(loader)


def test_sound_images_have_the_bits_of_the_set_itself(tmp_path: Path) -> None:
    images = jpeg_set(tmp_path, n=20)
    loader = LOADERS.get("torch")(ReplacingSet(images), how())
    for batch in loader:
        for image, index in zip(batch.image_BCHW.numpy(), batch.index_B.tolist(), strict=True):
            assert np.array_equal(image, normalised(by_pillow(images, how(), 0, index, 24)))
    assert loader.replaced == {}
