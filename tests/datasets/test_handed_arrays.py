"""Arrays of a user's own data set that do not fit: one line each, before anything is trained."""

from pathlib import Path
from typing import Any

import cli
import numpy as np
import pytest

from pipeline import train
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, ArraySet, FileSet
from pipeline.datasets.image_set import check_classes

N = 6
PIXELS = np.zeros((N, 8, 8, 3), np.uint8)
LABELS = np.arange(N) % 3
Capture = pytest.CaptureFixture[str]


def handed(pixels: Any = PIXELS, labels: Any = LABELS, split: str = "train") -> ArraySet:
    return ArraySet(name="own", split=split, label_N=labels, class_names=("a", "b", "c"), pixels_NHWC=pixels)


def at(position: int, value: float, kind: type = np.int64) -> np.ndarray:
    changed = LABELS.astype(kind)
    changed[position] = value
    return changed


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"labels": LABELS[:4]}, "6 images and 4 labels"),
        ({"labels": np.tile(LABELS, 2)}, "6 images and 12 labels"),
        ({"pixels": PIXELS.astype(np.float32)}, "pixels must be uint8 [N, H, W, 3], not float32 [6, 8, 8, 3]"),
        (
            {"pixels": PIXELS.transpose(0, 3, 1, 2)},
            "not uint8 [6, 3, 8, 8]: channels come last (pixels.transpose(0, 2, 3, 1))",
        ),
        ({"pixels": PIXELS[..., 0]}, "not uint8 [6, 8, 8]: grey images need three equal channels"),
        ({"pixels": PIXELS[:, :0]}, "not uint8 [6, 0, 8, 3]"),
        ({"pixels": list(PIXELS)}, "pixels must be uint8 [N, H, W, 3], not list"),
        ({"labels": at(4, 1.5, np.float64)}, "label 1.5 at position 4 is no whole number"),
        ({"labels": at(4, np.nan, np.float64)}, "label nan at position 4 is no whole number"),
        ({"labels": at(2, -1)}, "label -1 at position 2 is none of 3 classes, 0 to 2"),
        ({"labels": at(5, 3, np.uint8)}, "label 3 at position 5 is none of 3 classes, 0 to 2"),
        ({"labels": LABELS[:, None]}, "labels must be whole numbers [N], not int64 [6, 1]"),
        ({"labels": np.array(["a"] * N)}, "labels must be whole numbers [N], not <U1 [6]"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        handed(**given)
    assert str(caught.value).startswith("own/train: ") and line in str(caught.value)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32])
def test_whole_labels_of_any_type_become_int64(kind: type) -> None:
    label_N = handed(labels=LABELS.astype(kind)).label_N
    assert label_N.dtype == np.int64 and label_N.tolist() == LABELS.tolist()
    assert handed().label_N is LABELS  # not copied where nothing is to be done


def test_files_need_as_many_labels(tmp_path: Path) -> None:
    given: dict[str, Any] = {"name": "own", "split": "test", "class_names": ("a",), "root": tmp_path}
    with pytest.raises(InputError, match="own/test: 2 files and 1 labels"):
        FileSet(label_N=np.zeros(1, np.int64), paths=("x", "y"), **given)


def test_an_empty_set_has_no_images() -> None:
    with pytest.raises(InputError, match=r"^own/test: no images$"):
        check_classes(handed(PIXELS[:0], LABELS[:0], "test"))


def test_a_run_on_them(monkeypatch: pytest.MonkeyPatch, configs: Path, tmp_path: Path, capsys: Capture) -> None:
    """The number of classes that the YAML states holds; test images of another size are resized, and that is said."""
    DATASETS.names()
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))

    @DATASETS.register("own")
    def load(root: Path | None = None, split: str = "train", download: bool = False) -> ArraySet:
        return handed(PIXELS if split == "train" else PIXELS[:, :6, :7], split=split)

    yaml = configs / "dataset" / "own.yaml"
    yaml.write_text("num_classes: 5\nnetworks: cifar\n")
    words = ["dataset=own", "model=resnet8", "runtime.device=cpu", "data.image_size=8", "data.batch_size=4"]
    words += ["optim.epochs=1", "log.tensorboard=false", f"run.dir={tmp_path / 'runs'}"]
    code, _, err = cli.call(train, words, capsys)
    assert code == 2 and err == (
        "error: configs/dataset/own.yaml: num_classes is 5, and the data set has 3 class_names\n"
    )
    yaml.write_text("num_classes: 3\nnetworks: cifar\n")
    code, out, err = cli.call(train, words, capsys)
    assert code == 0, out + err
    assert "note: own: training images are 8 x 8, test images 6 x 7: resized to data.image_size=8" in err
