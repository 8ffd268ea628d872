"""ImageNet in the layouts that people have, and one clear line for every fault."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jpeg_files
import numpy as np
import pytest

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet, imagenet

WNIDS = ["n00000001", "n00000002", "n00000003"]
ORDER = [2, 0, 1, 1, 0, 2]  # classes of the flat validation images


def load(root: Path, split: str = "test", name: str = "imagenet") -> FileSet:
    return DATASETS.get(name)(root=root, split=split)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return jpeg_files.tree(tmp_path / "imagenet1k")


def flatten(root: Path) -> list[str]:
    """Moves the validation images into one folder, as published; returns their names."""
    left = {wnid: sorted((root / "val" / wnid).iterdir()) for wnid in WNIDS}
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(len(ORDER))]
    for name, label in zip(names, ORDER, strict=True):
        left[WNIDS[label]].pop(0).rename(root / "val" / name)
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    return names


def test_sorted_by_wnid_then_name(root: Path) -> None:
    train, test = load(root, "train"), load(root)
    assert train.class_names == test.class_names == tuple(WNIDS)
    assert train.label_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and train.label_N.dtype == np.int64
    assert train.paths[5] == "train/n00000002/n00000002_1.JPEG" and test.paths[1] == "val/n00000001/n00000001_1.JPEG"
    assert train.read(5).shape == (*train.size(5), 3) == (21, 29, 3)
    for name in ("ilsvrc2012", "ImageNet1k", "imagenet-1k"):
        assert load(root, "train", name).fingerprint() == train.fingerprint()


@pytest.mark.parametrize("place", ["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "ILSVRC2012"])
def test_places_of_the_tree(place: str, root: Path, tmp_path: Path) -> None:
    plain = load(root, "train").fingerprint()
    target = tmp_path / "given" / place
    target.parent.mkdir(parents=True)
    shutil.move(root, target)
    assert load(tmp_path / "given", "train").fingerprint() == plain
    names = flatten(target)
    rows = [
        f"{name.removesuffix('.JPEG')},{WNIDS[k]} 1 2 3 4 {WNIDS[k]} 5 6 7 8"
        for name, k in zip(names, ORDER, strict=True)
    ]
    (tmp_path / "given" / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    assert load(tmp_path / "given").label_N.tolist() == sorted(ORDER)
    jpeg_files.write(tmp_path / "LOC_val_solution.csv", b"")  # above data.root nothing is looked for
    (tmp_path / "given" / "LOC_val_solution.csv").unlink()
    with pytest.raises(InputError, match="holds no table of classes"):
        load(tmp_path / "given")


TABLES = {
    "LOC_val_solution.csv": lambda names: [
        "ImageId,PredictionString",
        *(f"{n[:-5]},{WNIDS[k]} 1 9 9 9" for n, k in zip(names, ORDER, strict=True)),
    ],
    "val.txt": lambda names: [f"{n} {k}" for n, k in zip(names, ORDER, strict=True)],
    "devkit/val.txt": lambda names: [f"val/{n} {WNIDS[k]}" for n, k in zip(names, ORDER, strict=True)],
    "imagenet_2012_validation_synset_labels.txt": lambda names: [WNIDS[k] for k in ORDER],
    # ILSVRC2012_ID counts the classes in the order of meta.mat: here n3 = 1, n1 = 2, n2 = 3.
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": lambda names: [
        str([2, 3, 1][k]) for k in ORDER
    ],
}


def lay_table(root: Path, name: str, names: list[str]) -> Path:
    path = jpeg_files.write(root / name, "\n".join(TABLES[name](names)).encode())
    if "ground_truth" in name:
        path.with_name("map_clsloc.txt").write_text("n00000002 3 b\nn00000003 1 c\nn00000001 2 a\n")
    return path


@pytest.mark.parametrize("table", TABLES)
def test_flat_validation_images(table: str, root: Path) -> None:
    before = load(root)
    pixels = [before.read(i) for i in range(6)]
    names = flatten(root)
    lay_table(root, table, names)
    found = load(root)
    by_class = [[name for name, k in zip(names, ORDER, strict=True) if k == label] for label in range(3)]
    assert list(found.paths) == [f"val/{name}" for part in by_class for name in part]
    assert found.label_N.tolist() == [0, 0, 1, 1, 2, 2]
    for i in range(6):
        np.testing.assert_array_equal(found.read(i), pixels[i])
    for name in names[:2]:  # a cut copy: the numbers in the names count
        (root / "val" / name).unlink()
    assert load(root).label_N.tolist() == sorted(ORDER[2:])


def test_classes_in_the_order_of_a_plain_list(root: Path) -> None:
    names = flatten(root)
    path = lay_table(root, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", names)
    path.with_name("map_clsloc.txt").unlink()
    with pytest.raises(InputError, match=r"as meta\.mat does, which is not read: put map_clsloc\.txt or synsets_by_id"):
        load(root)
    path.with_name("synsets_by_id.txt").write_text("n00000003 fish\nn00000001 bird\nn00000002 dog\n")
    assert load(root).label_N.tolist() == sorted(ORDER)


def table_of(text: str) -> Callable[[Path], None]:
    def lay(root: Path) -> None:
        flatten(root)
        (root / "val.txt").write_text(text)

    return lay


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no train": (lambda r: shutil.rmtree(r / "train"), "no train folder in .*; data_prep|no train folder"),
    "no class": (lambda r: [shutil.rmtree(r / "train" / w) for w in WNIDS], "no class folder in .*train"),
    "no val": (lambda r: shutil.rmtree(r / "val"), "no val folder in"),
    "class missing in train": (
        lambda r: shutil.rmtree(r / "train" / WNIDS[1]),
        "n00000002 has no counterpart in .*train",
    ),
    "empty class": (lambda r: [p.unlink() for p in (r / "val" / WNIDS[1]).iterdir()], "class 'n00000002' is empty"),
    "half sorted": (lambda r: jpeg_files.write(r / "val" / "x.JPEG", b""), "half sorted: .* 1 images lie beside them"),
    "no table": (flatten, r"no class folders, and .* holds no table of classes \(LOC_val"),
    "empty table": (table_of("\n"), r"val\.txt is empty"),
    "unlisted": (table_of("ILSVRC2012_val_00000001.JPEG 0"), "does not tell the class of ILSVRC2012_val_00000002"),
    "unknown number": (
        table_of("\n".join(f"ILSVRC2012_val_{i:08d}.JPEG 3" for i in range(7))),
        "'3' is neither a wnid nor the number of one of 3 classes",
    ),
    "unknown wnid": (
        table_of("\n".join(f"ILSVRC2012_val_{i:08d}.JPEG n00000009" for i in range(7))),
        "of class 'n00000009', which has no folder in",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damage: str, root: Path) -> None:
    act, message = DAMAGE[damage]
    act(root)
    with pytest.raises(InputError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_table_with_other_numbers_of_lines(root: Path) -> None:
    for i, name in enumerate(flatten(root)):
        (root / "val" / name).rename(root / "val" / f"{i}.JPEG")
    (root / "val.txt").write_text("n00000001\nn00000002\n")
    with pytest.raises(InputError, match=r"val\.txt has 2 lines for 6 validation images"):
        load(root)


def test_no_root_and_no_download(root: Path) -> None:
    for options in ({"root": None}, {"root": root, "download": True}):
        with pytest.raises(InputError, match=r"needs data\.root=DIR .* cannot be downloaded: data_prep/imagenet\.py"):
            DATASETS.get("imagenet")(**options)
    with pytest.raises(InputError, match="unknown split 'val'"):
        load(root, "val")


def test_the_odd_files_of_imagenet(root: Path) -> None:
    folder = root / "train" / WNIDS[0]
    scene = jpeg_files.scene(4)
    jpeg_files.write(folder / "n00000001_0.JPEG", jpeg_files.data_of(scene, "PNG"))
    jpeg_files.write(folder / "n00000001_1.JPEG", jpeg_files.data_of(scene.convert("CMYK")))
    jpeg_files.write(folder / "n00000001_2.JPEG", jpeg_files.data_of(scene.convert("L")))
    found = load(root, "train")
    np.testing.assert_array_equal(found.read(0), np.asarray(scene))
    for i in range(3):
        assert found.read(i).shape == (20, 28, 3) == (*found.size(i), 3)
    assert np.abs(found.read(1).astype(int) - np.asarray(scene)).mean() < 8


MARKS = {
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "mark and CRLF": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n",
    "marks where tables were joined": lambda text: text.replace("\n", "\n\ufeff").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "blanks": lambda text: text.replace("\n", " \t\n\n").encode(),
}


@pytest.mark.parametrize("how", MARKS)
@pytest.mark.parametrize("table", TABLES)
def test_tables_as_other_systems_save_them(table: str, how: str, root: Path) -> None:
    path = lay_table(root, table, flatten(root))
    for part in (path, path.with_name("map_clsloc.txt")):
        if part.exists():
            part.write_bytes(MARKS[how](part.read_text()))
    assert load(root).label_N.tolist() == sorted(ORDER)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_tables_in_other_encodings_are_refused(table: str, encoding: str, root: Path) -> None:
    path = lay_table(root, table, flatten(root))
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(InputError, match=rf"{path.name} is .*(UTF-16|no text)") as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_quoted_and_semicolons(root: Path) -> None:
    names = flatten(root)
    rows = [f'"{name[:-5]}";"{WNIDS[k]} 1 9 9 9"' for name, k in zip(names, ORDER, strict=True)]
    (root / "LOC_val_solution.csv").write_text("\n".join(['"ImageId";"PredictionString"', *rows]))
    assert load(root).label_N.tolist() == sorted(ORDER)


def renamed(root: Path, names: dict[str, str]) -> Path:
    for split in ("train", "val"):
        for wnid, name in names.items():
            if (root / split / wnid).is_dir():
                (root / split / wnid).rename(root / split / name)
    return root


NUMBERED = {"n00000001": "10", "n00000002": "2", "n00000003": "1"}


def classes(root: Path, split: str, how: str = "wnids", index: str = "auto") -> FileSet:
    return DATASETS.get("imagenet")(root=root, split=split, classes=how, index=index)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (NUMBERED, "train/1 is not called by a wnid such as n01440764: data.classes=numbers takes them in the order"),
        ({"n00000002": "tench"}, "train/tench is not .*: data.classes=names takes any"),
        ({"n00000003": "n0000003"}, "train/n0000003 is not called by a wnid"),
        ({"n00000003": "N00000003"}, "train/N00000003 is not called by a wnid"),
        ({"n00000001": "n00000001 dog"}, "train/n00000001 dog is not called by a wnid"),
    ],
)
def test_folders_that_are_no_wnids(names: dict[str, str], advice: str, split: str, root: Path) -> None:
    with pytest.raises(InputError, match=advice) as caught:
        classes(renamed(root, names), split)
    assert "\n" not in str(caught.value)
    for index in ("rebuild", "auto"):  # an index of the names does not make them wnids
        assert len(classes(root, split, "names", index)) > 0
    with pytest.raises(InputError, match=advice):
        classes(root, split)


def test_numbered_folders_count(root: Path) -> None:
    by_wnid = {split: classes(root, split) for split in ("train", "test")}
    renamed(root, NUMBERED)
    for split, count in (("train", 4), ("test", 2)):
        for index in ("off", "rebuild", "auto"):
            found = classes(root, split, "numbers", index)
            assert found.class_names == ("1", "2", "10")
            assert found.label_N.tolist() == [0] * count + [1] * count + [2] * count
            assert found.paths[0].split("/")[1] == "1" and found.paths[-1].split("/")[1] == "10"
        assert classes(root, split, "names").class_names == ("1", "10", "2")
        assert len(found) == len(by_wnid[split])
    names = flatten(renamed(root, {name: wnid for wnid, name in NUMBERED.items()}))
    renamed(root, NUMBERED)
    (root / "val.txt").write_text("\n".join(f"{n} {NUMBERED[WNIDS[k]]}" for n, k in zip(names, ORDER, strict=True)))
    assert classes(root, "test", "numbers").label_N.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("name", "reason"), [("x", "x is no number"), ("01", "holds number 1 twice: 01 and 1")])
def test_numbers_that_are_none(name: str, reason: str, root: Path) -> None:
    renamed(root, NUMBERED | {"n00000001": name})
    with pytest.raises(InputError, match=reason):
        classes(root, "train", "numbers")


def test_a_number_a_line_is_an_id_whatever_the_folders_are_called(root: Path) -> None:
    table = lay_table(root, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", flatten(root))
    table.with_name("map_clsloc.txt").unlink()
    renamed(root, {"n00000001": "1", "n00000002": "2", "n00000003": "3"})
    with pytest.raises(InputError, match="numbers the classes as meta"):
        classes(root, "test", "numbers")


def test_a_thousand_other_wnids_are_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    assert len(load(root)) == 6
    assert "classes of" in (err := capsys.readouterr().err) and "not those of ILSVRC 2012" in err
    assert err.startswith("note: ") and err.count("\n") == 1
