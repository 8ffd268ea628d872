"""Sizes on paper, damaged manifests."""

import json
from pathlib import Path

import pytest

from pipeline.contracts import InputError
from pipeline.teachers.cache_format import Layout, Manifest, differences, file_name, read_manifest


def layout(**changes: object) -> Layout:
    """ImageNet's."""
    return Layout(**{"samples": 1_281_167, "classes": 1000, "pooled": 0, "views": 1, "dtype": "fp16", **changes})


@pytest.mark.parametrize(
    ("changes", "gigabytes"),
    [
        ({}, 2.562334),
        ({"dtype": "fp32"}, 5.124668),
        ({"dtype": "int8"}, 1.286292),
        ({"dtype": "topk", "k": 20}, 0.158865),
        ({"pooled": 512}, 3.874249),
        ({"samples": 50_000, "classes": 100}, 0.01),
        ({"samples": 100_000, "classes": 200}, 0.04),
        ({"samples": 14_197_122, "classes": 21_841}, 620.158683),
    ],
)
def test_bytes_of_a_view(changes: dict[str, object], gigabytes: float) -> None:
    assert layout(**changes).bytes_per_view() / 1e9 == pytest.approx(gigabytes, abs=1e-6)


def test_imagenet_at_ten_thousand_images_a_second() -> None:
    """20 MB/s at fp16; 90 views are 231 GB; a view is read in 128 s."""
    size = layout().bytes_per_view()
    per_image = size / 1_281_167
    assert per_image == 2000 and per_image * 10_000 / 1e6 == 20
    assert round(90 * size / 1e9) == 231 and round(1_281_167 / 10_000) == 128


def test_names() -> None:
    assert file_name(3, "", "logits") == "view-00003.logits.npy"
    assert file_name(12, "strong", "logits", ".scale") == "view-00012.strong.logits.scale.npy"
    names = layout(dtype="int8", pooled=8, streams=("mixed",)).files(0)
    assert {n: c for n, (_, c) in names.items()} == {
        "view-00000.logits.npy": 1000,
        "view-00000.logits.scale.npy": 1,
        "view-00000.pooled.npy": 8,
        "view-00000.mixed.logits.npy": 1000,
        "view-00000.mixed.logits.scale.npy": 1,
        "view-00000.mixed.pooled.npy": 8,
    }


def test_differences_name_both_sides() -> None:
    there = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    assert differences(there, {"a": {"b": 2, "c": [1, 2]}, "e": True}) == [
        "a.b is 1 there, 2 here",
        "d is x there, null here",
        "e is null there, true here",
    ]
    assert differences(there, json.loads(json.dumps(there))) == []


def manifest(folder: Path, **changes: object) -> None:
    """A manifest of one view, changed."""
    files = {"view-00000.logits.npy": {"bytes": 1, "sha256": ""}}
    content = json.loads(Manifest(layout=layout(), identity={}, files=files).text())
    (folder / "manifest.json").write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": "tar"}, "is a tar of version 1"),
        ({"version": 9}, "of version 9, not"),
        ({"layout": {"samples": 3}}, "damaged"),
        ({"layout": 3}, "damaged"),
        ({"identity": 3}, "damaged"),
        ({"files": {}}, "lists no view-00000.logits.npy"),
        ({"files": None}, "damaged"),
    ],
)
def test_damaged_manifests(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    manifest(tmp_path, **changes)
    with pytest.raises(InputError, match=text) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_cache_and_an_unfinished_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no cache"):
        read_manifest(tmp_path)
    (tmp_path / ".parts").mkdir()
    with pytest.raises(InputError, match="is not finished: run cache_teacher"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged: JSONDecodeError"):
        read_manifest(tmp_path)
