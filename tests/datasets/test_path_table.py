"""A table of paths behaves as a tuple of them."""

import os
import pickle

import numpy as np
import pytest

from pipeline.datasets import FileSet
from pipeline.datasets.path_table import SLICE, PathTable

GROUPS = [("train/b", ["1.jpg", "zwölf.png"]), ("", ["bare.jpg"]), ("train/a", [f"{i}.JPEG" for i in range(SLICE)])]
GROUPS += [("train/b", ["3.jpg", os.fsdecode(b"no\xffutf8.jpg")])]
PATHS = tuple(f"{folder}/{name}" if folder else name for folder, names in GROUPS for name in names)


def test_it_is_the_sequence() -> None:
    table = PathTable.pack(GROUPS)
    assert len(table) == len(PATHS) and tuple(table) == PATHS and table.folders == ("train/b", "", "train/a")
    for index in (0, 1, 2, 3, SLICE, len(PATHS) - 1, -1, np.int64(5)):
        assert table[index] == PATHS[index]
    assert tuple(table[-3:]) == PATHS[-3:] and tuple(table[1:9:3]) == PATHS[1:9:3] and PATHS[7] in table
    for beyond in (len(PATHS), -len(PATHS) - 1):
        with pytest.raises(IndexError):
            table[beyond]
    assert len(PathTable.pack([])) == 0 and list(PathTable.pack([])) == []


def test_it_travels_as_bytes() -> None:
    names = [(f"train/n{k:08d}", [f"n{k:08d}_{i}.JPEG" for i in range(100)]) for k in range(100)]
    data = pickle.dumps(PathTable.pack(names))
    assert len(data) < 35 * 10_000  # 16 bytes of name, 8 + 4 of numbers for each
    assert list(pickle.loads(data)) == [f"{folder}/{name}" for folder, inside in names for name in inside]


def test_the_fingerprint_is_that_of_a_tuple() -> None:
    def files(paths: object) -> FileSet:
        label_N = np.arange(len(PATHS)) % 3
        return FileSet(name="x", split="train", label_N=label_N, class_names=("a", "b", "c"), root=None, paths=paths)

    assert files(PATHS).fingerprint() == files(PathTable.pack(GROUPS)).fingerprint()
    assert files(PathTable.pack(GROUPS)).sample_ids() == list(PATHS)


@pytest.mark.parametrize(
    "change",
    [
        {"folders": ("../x", "", "train/a")},
        {"folders": ("/etc", "", "train/a")},
        {"folders": ("train/b",)},
        {"stop_N": np.array([1, 2])},
        {"stop_N": np.arange(len(PATHS))[::-1]},
        {"name_bytes": np.frombuffer(b"../../passwd", np.uint8)},
    ],
    ids=["up", "absolute", "few folders", "few names", "backwards", "slashes"],
)
def test_what_does_not_fit_is_refused(change: dict[str, object]) -> None:
    table = PathTable.pack(GROUPS)
    parts = {key: getattr(table, key) for key in ("folders", "folder_N", "name_bytes", "stop_N")}
    with pytest.raises(ValueError, match=r"does not fit together|leads out"):
        PathTable(**{**parts, **change})
