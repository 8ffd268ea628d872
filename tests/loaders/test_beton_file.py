""".beton files that are not what they should be, and the law's choice of what is stored as pixels."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from beton_files import RAW, raw_arrays, written
from small_sets import array_set, file_set

from pipeline.contracts import InputError
from pipeline.loaders.ffcv.file import JPEG, open_beton
from pipeline.loaders.ffcv.file import RAW as PIXELS
from pipeline.loaders.ffcv.manifest import manifest_path
from pipeline.loaders.ffcv.writer import raw_images, write_beton


@pytest.fixture
def copied(tmp_path):
    """(set, a copy of its file that may be damaged)."""
    image_set, path = raw_arrays()
    copy = tmp_path / "copy.beton"
    shutil.copy(path, copy)
    shutil.copy(manifest_path(path), manifest_path(copy))
    return image_set, copy


def refused(image_set, path, text):
    with pytest.raises(InputError, match=text) as caught:
        open_beton(path, image_set, "os")
    assert "\n" not in str(caught.value)


def test_a_file_of_another_set_is_refused_and_both_are_named(copied):
    image_set, path = copied
    refused(
        array_set(71), path, re.escape("was written from small/train (70 images), not from small/train (71 images)")
    )
    test_set = dataclasses.replace(image_set, split="test")
    refused(test_set, path, re.escape("was written from small/train (70 images), not from small/test (70 images)"))
    other = dataclasses.replace(image_set, pixels_NHWC=255 - image_set.pixels_NHWC)
    refused(other, path, "fingerprints " + image_set.fingerprint()[:12] + " and " + other.fingerprint()[:12])


def test_names_in_a_damaged_manifest_stay_on_one_line(copied):
    image_set, path = copied
    beside = manifest_path(path)
    for name in ("data_set", "split", "fingerprint"):
        content = json.loads(beside.read_text())
        beside.write_text(json.dumps(content | {name: "a\nb"}))
        refused(image_set, path, r"a\\nb")
        beside.write_text(json.dumps(content))


def test_a_file_that_is_cut_short_or_missing_is_refused(copied):
    image_set, path = copied
    size = path.stat().st_size
    with path.open("r+b") as handle:
        handle.truncate(size - 1)
    refused(image_set, path, f"has {size - 1} bytes, but {size} were written: write it again")
    path.unlink()
    refused(image_set, path, "No such file or directory")


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": 3}', "[]", "\x00"])
def test_a_file_without_its_manifest_is_refused(copied, content):
    image_set, path = copied
    manifest_path(path).unlink()
    if content is not None:
        manifest_path(path).write_text(content)
    refused(image_set, path, r"copy\.beton\.json.*write (it|copy\.beton) again")


@pytest.mark.parametrize("at", [0, 2, 8, 16, 24, 30, 5 * 1032 + 24, 5 * 1032 + 24 + 16, -1])
def test_changed_tables_are_seen(copied, at):
    image_set, path = copied
    with path.open("r+b") as handle:
        handle.seek(at, 0 if at >= 0 else 2)
        before = handle.read(1)
        handle.seek(at, 0 if at >= 0 else 2)
        handle.write(bytes([before[0] ^ 0x55]))
    refused(image_set, path, r"is damaged.*: write it again")


def test_a_file_and_a_manifest_of_two_writings_do_not_fit(copied):
    image_set, path = copied
    changed = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**changed, "tables": "0" * 32}))
    refused(image_set, path, "is not the file its manifest was written for")


def test_the_tables_say_what_was_written():
    image_set, path = written(file_set, 23, max_resolution=40, raw_fraction=0.4)
    beton = open_beton(path, image_set, "memory")
    raw_N = raw_images(0, 23, 0.4)
    assert 0 < raw_N.sum() < 23
    np.testing.assert_array_equal(beton.mode_N, np.where(raw_N, PIXELS, JPEG))
    source_N2 = np.array([image.shape[:2] for image in image_set.images])
    np.testing.assert_array_equal(np.stack([beton.source_height_N, beton.source_width_N], 1), source_N2)
    ratio_N = np.minimum(1, 40 / source_N2.max(1))
    np.testing.assert_array_equal(
        np.stack([beton.height_N, beton.width_N], 1), np.rint(source_N2 * ratio_N[:, None]).astype(int)
    )
    np.testing.assert_array_equal(beton.size_N[raw_N], (beton.height_N * beton.width_N * 3)[raw_N])
    assert (beton.size_N[~raw_N] < (beton.height_N * beton.width_N * 3)[~raw_N]).all()


def test_pixels_are_stored_as_they_are():
    image_set, path = raw_arrays()
    beton = open_beton(path, image_set, "memory")
    for i in (0, 35, 69):
        stored = beton.content[beton.pointer_N[i] : beton.pointer_N[i] + beton.size_N[i]]
        np.testing.assert_array_equal(stored.reshape(16, 16, 3), image_set.pixels_NHWC[i])


def test_which_images_are_pixels_depends_on_seed_and_index_alone():
    many, few = raw_images(0, 1000, 0.5), raw_images(0, 1000, 0.1)
    np.testing.assert_array_equal(raw_images(0, 10, 0.5), many[:10])
    assert not (few & ~many).any() and 70 < few.sum() < 130 and 450 < many.sum() < 550
    assert (raw_images(1, 1000, 0.5) != many).any()
    assert raw_images(0, 1000, 1.0).all() and not raw_images(0, 1000, 0.0).any()


def test_images_larger_than_a_page_lie_on_one_page(tmp_path, monkeypatch):
    """FFCV's own reader may load page by page."""
    monkeypatch.setattr("pipeline.loaders.ffcv.writer.PAGE", 1 << 10)
    image_set = file_set()
    write_beton(image_set, tmp_path / "f.beton", **RAW)
    beton = open_beton(tmp_path / "f.beton", image_set, "os")
    page = 1 << 14
    assert page // 2 < beton.size_N.max() <= page
    np.testing.assert_array_equal(beton.pointer_N // page, (beton.pointer_N + beton.size_N - 1) // page)
    assert (np.sort(beton.pointer_N)[1:] >= np.sort(beton.pointer_N + beton.size_N)[:-1]).all()
