"""CIFAR from every layout of files, and one clear line for every fault."""

import shutil
from pathlib import Path
from typing import Any

import cifar_files
import numpy as np
import pytest

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.cifar import CIFAR10, CIFAR100, Layout, load_cifar

BOTH = pytest.mark.parametrize("layout", [CIFAR10, CIFAR100], ids=lambda layout: layout.name)


def expected(layout: Layout, made: dict[str, cifar_files.Record], split: str) -> tuple[list[Any], list[int]]:
    """Pixels [32, 32, 3] and labels, one by one."""
    pixels: list[Any] = []
    labels: list[int] = []
    for file in layout.files[split]:
        labels += made[file][layout.label_key]
        for row in made[file]["data"]:
            planes = [row[:1024], row[1024:2048], row[2048:]]
            pixels.append(np.stack([plane.reshape(32, 32) for plane in planes], axis=2))
    return pixels, labels


@BOTH
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pixels_labels_and_order(layout: Layout, split: str, inside: bool, protocol: int, tmp_path: Path) -> None:
    made = cifar_files.records(layout)
    folder = cifar_files.write(tmp_path / layout.archive.folder, made, protocol)
    found = DATASETS.get(layout.name)(root=folder if inside else tmp_path, split=split)
    pixels, labels = expected(layout, made, split)
    assert found.label_N.tolist() == labels and found.label_N.dtype == np.int64
    assert found.name == layout.name and found.split == split and len(found) == len(labels)
    assert found.class_names[3] == "name3" and found.num_classes == layout.classes
    for index, image in enumerate(pixels):
        np.testing.assert_array_equal(found.read(index), image)
    assert found.pixels_NHWC.flags.c_contiguous and found.pixels_NHWC.flags.writeable  # what torch.from_numpy wants


@BOTH
def test_python2_keys_and_names(layout: Layout, tmp_path: Path) -> None:
    made = {
        file: {key.encode(): [n.encode() for n in v] if key == layout.names_key else v for key, v in record.items()}
        for file, record in cifar_files.records(layout).items()
    }
    cifar_files.write(tmp_path / layout.archive.folder, made, protocol=2)
    found = DATASETS.get(layout.name)(root=tmp_path, split="test")
    assert found.class_names[:2] == ("name0", "name1") and len(found) > 0


def test_names_without_a_meta_file(tmp_path: Path) -> None:
    (cifar_files.write(tmp_path, cifar_files.records(CIFAR100)) / "meta").unlink()
    assert DATASETS.get("CIFAR-100")(root=tmp_path, split="test").class_names == tuple(str(k) for k in range(100))


def test_labels_may_be_an_array(tmp_path: Path) -> None:
    made = cifar_files.records(CIFAR100)
    labels = made["test"]["fine_labels"]
    cifar_files.write(tmp_path, {**made, "test": {**made["test"], "fine_labels": np.array(labels, dtype=np.uint8)}})
    assert load_cifar(CIFAR100, tmp_path, "test").label_N.tolist() == labels


def test_the_archive_is_unpacked_once(tmp_path: Path) -> None:
    layout = cifar_files.pack(CIFAR100, tmp_path / "scratch", tmp_path / "root")
    first = load_cifar(layout, tmp_path / "root", "train")
    assert first.label_N.tolist() == expected(layout, cifar_files.records(layout), "train")[1]
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["cifar-100-python", "cifar-100-python.tar.gz"]
    (tmp_path / "root" / layout.archive.file).unlink()
    assert load_cifar(layout, tmp_path / "root", "train").fingerprint() == first.fingerprint()


@BOTH
def test_wrong_checksum_names_both_sums(layout: Layout, tmp_path: Path) -> None:
    packed = cifar_files.pack(layout, tmp_path / "scratch", tmp_path / "root")
    with pytest.raises(InputError) as caught:
        DATASETS.get(layout.name)(root=tmp_path / "root", split="train")
    assert layout.archive.md5 in str(caught.value) and packed.archive.md5 in str(caught.value)
    assert not (tmp_path / "root" / layout.archive.folder).exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected cifar-100-python/train or cifar-100-python\.tar\.gz.*https://.*kriz"
    ):
        DATASETS.get("cifar100")(root=tmp_path, split="train")
    with pytest.raises(InputError, match=r"needs data\.root.*cifar-10-batches-py"):
        DATASETS.get("cifar10")(root=None, split="train")
    with pytest.raises(InputError, match="unknown split 'val'"):
        DATASETS.get("cifar10")(root=tmp_path, split="val")


def test_a_missing_batch(tmp_path: Path) -> None:
    (cifar_files.write(tmp_path, cifar_files.records(CIFAR10)) / "data_batch_4").unlink()
    with pytest.raises(InputError, match="data_batch_4 does not exist"):
        load_cifar(CIFAR10, tmp_path, "train")


GOOD = cifar_files.batch(CIFAR100, 6, 0)
FAULTS: dict[str, tuple[Any, str]] = {
    "a list": ([1, 2], "is no cifar100 file"),
    "other keys": ({"data": GOOD["data"], "labels": [0] * 6}, "lacks 'data' or 'fine_labels'"),
    "data type": ({**GOOD, "data": GOOD["data"].astype(np.int32)}, r"'data' is int32 \[6, 3072\], expected uint8"),
    "data shape": ({**GOOD, "data": GOOD["data"].reshape(6, 3, 32, 32)}, r"'data' is uint8 \[6, 3, 32, 32\]"),
    "no array": ({**GOOD, "data": [1]}, "'data' is a list"),
    "a number": ({**GOOD, "data": np.array(1, dtype=np.uint8)}, r"'data' is uint8 \[\]"),
    "counts": ({**GOOD, "fine_labels": [0] * 5}, "6 images but 5 labels"),
    "no rows": ({"data": GOOD["data"][:0].copy(), "fine_labels": np.zeros(0, np.int64)}, "0 images"),
    "range": ({**GOOD, "fine_labels": [0, 1, 2, 100, 4, 5]}, r"label 100 is outside 0\.\.99"),
    "negative": ({**GOOD, "fine_labels": [0, 1, 2, -1, 4, 5]}, r"label -1 is outside 0\.\.99"),
    "text": ({**GOOD, "fine_labels": ["cat"] * 6}, "not one list of whole numbers"),
    "fractions": ({**GOOD, "fine_labels": [0.5] * 6}, "not one list of whole numbers"),
    "ragged": ({**GOOD, "fine_labels": [[1], [1, 2]]}, "not one list of whole numbers"),
    "nothing": ({**GOOD, "fine_labels": None}, "not one list of whole numbers"),
}


@pytest.mark.parametrize(("record", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_in_a_file(record: Any, message: str, tmp_path: Path) -> None:
    cifar_files.write(tmp_path, {"test": record}, protocol=2 if record == [1, 2] else 5)
    with pytest.raises(InputError, match=message) as caught:
        load_cifar(CIFAR100, tmp_path, "test")
    assert str(caught.value).startswith(str(tmp_path / "test")) and "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [["a"] * 99, None, {"a": 1}])
def test_a_wrong_meta_file(names: Any, tmp_path: Path) -> None:
    cifar_files.write(tmp_path, {"test": GOOD, "meta": {"fine_label_names": names}})
    with pytest.raises(InputError, match="meta: expected 100 names"):
        load_cifar(CIFAR100, tmp_path, "test")


def test_a_cut_file(tmp_path: Path) -> None:
    folder = cifar_files.write(tmp_path, {"test": GOOD})
    (folder / "test").write_bytes((folder / "test").read_bytes()[:9000])
    with pytest.raises(InputError, match="cannot be read as a pickle of arrays"):
        load_cifar(CIFAR100, tmp_path, "test")


def test_a_half_folder_beside_the_archive_is_not_replaced(tmp_path: Path) -> None:
    layout = cifar_files.pack(CIFAR10, tmp_path / "scratch", tmp_path / "root")
    folder = shutil.copytree(tmp_path / "scratch" / layout.archive.folder, tmp_path / "root" / layout.archive.folder)
    (folder / "data_batch_1").unlink()
    with pytest.raises(InputError, match="data_batch_1 does not exist"):
        load_cifar(layout, tmp_path / "root", "train")


@BOTH
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, lambda v: np.array(v, np.int16)])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_labels_that_are_numbers_of_numpy(layout: Layout, kind: Any, protocol: int, tmp_path: Path) -> None:
    made = cifar_files.records(layout)
    for record in made.values():
        if layout.label_key in record:
            record[layout.label_key] = [kind(label) for label in record[layout.label_key]]
        else:
            record[layout.names_key] = [np.str_(name) for name in record[layout.names_key]]
    cifar_files.write(tmp_path, made, protocol)
    found = DATASETS.get(layout.name)(root=tmp_path, split="test")
    assert found.label_N.tolist() == expected(layout, made, "test")[1] and found.class_names[3] == "name3"


def test_lists_of_lists_without_end(tmp_path: Path) -> None:
    """A file of 400 bytes that lists 2^60 things."""
    bomb: Any = [1]
    for _ in range(60):
        bomb = [bomb, bomb]
    for key in ("labels", "label_names", "data"):
        made = cifar_files.records(CIFAR10)
        for record in made.values():
            if key in record:
                record[key] = bomb if key != "label_names" else [bomb] * 10
        cifar_files.write(tmp_path / key, made)
        with pytest.raises(InputError, match=r"labels|names|data"):
            load_cifar(CIFAR10, tmp_path / key, "test")
