"""Contents of a .beton file that are not what was written: seen when they are read. Files without sums go on."""

import json
import zlib

import numpy as np
import pytest
from beton_files import beton_loader, raw_files, written
from small_sets import array_set, file_set
from test_beton_loader import configured, same

from pipeline.contracts import InputError
from pipeline.loaders.ffcv import file as beton_file
from pipeline.loaders.ffcv import writer
from pipeline.loaders.ffcv.file import open_beton, tables_digest
from pipeline.loaders.ffcv.library import ffcv_module
from pipeline.loaders.ffcv.manifest import manifest_path, read_manifest


def copy(path, folder):
    """The file and its manifest elsewhere."""
    for one in (path, manifest_path(path)):
        (folder / one.name).write_bytes(one.read_bytes())
    return folder / path.name


def resealed(path):
    """The manifest says of the tables what they are now."""
    reader = ffcv_module("reader").Reader(str(path))
    head = reader.header.nbytes + reader.field_descriptors.nbytes + reader.metadata.nbytes
    changed = json.loads(manifest_path(path).read_text())
    changed["tables"] = tables_digest(path, head, int(reader.header["alloc_table_ptr"]))
    manifest_path(path).write_text(json.dumps(changed))


def without_sums(monkeypatch, folder, make=array_set, **options):
    """(set, a file as the format 1 was)."""
    with monkeypatch.context() as patch:
        patch.setattr(writer, "FIELDS", beton_file.WITHOUT_SUMS)
        patch.setattr(writer, "FORMAT", "stillhouse beton 1")
        patch.setattr(writer, "summed", lambda content: ())
        image_set = make(9)
        writer.write_beton(image_set, folder / "old.beton", workers=1, **options)
    return image_set, folder / "old.beton"


@pytest.mark.parametrize("source", ["jpeg", "raw"])
def test_a_bit_of_the_contents_is_seen(source, tmp_path):
    image_set, path = written(file_set, 9, max_resolution=40) if source == "jpeg" else raw_files(9)
    path = copy(path, tmp_path)
    beton = open_beton(path, image_set, "memory")
    assert int(beton.crc_N[4]) == zlib.crc32(beton.content[beton.pointer_N[4] :][: beton.size_N[4]].tobytes())
    with path.open("r+b") as handle:
        handle.seek(int(beton.pointer_N[4] + beton.size_N[4] // 2))
        byte = handle.read(1)[0]
        handle.seek(-1, 1)
        handle.write(bytes([byte ^ 4]))
    with pytest.raises(InputError, match=r"cannot decode image 4 \(.*write it again \(its bytes are not those") as seen:
        list(beton_loader(image_set, path, configured()))
    assert "\n" not in str(seen.value)


def test_files_without_sums_go_on_and_show_the_same(monkeypatch, tmp_path):
    image_set, old = without_sums(monkeypatch, tmp_path, max_resolution=16)
    assert open_beton(old, image_set, "os").crc_N is None and read_manifest(old).format == "stillhouse beton 1"
    _, new = written(array_set, 9, max_resolution=16)
    for one, other in zip(
        beton_loader(image_set, old, configured()), beton_loader(image_set, new, configured()), strict=True
    ):
        assert same(one, other)


@pytest.mark.parametrize("by", ["file", "table"])
def test_an_image_of_another_size_than_the_table_says(by, monkeypatch, tmp_path):
    """No sum tells it: the file has none, or its maker counted them anew."""
    image_set, path = without_sums(monkeypatch, tmp_path, max_resolution=16)
    beton = open_beton(path, image_set, "memory")
    content = bytearray(path.read_bytes())
    if by == "file":
        start = int(beton.pointer_N[3])
        frame = content.index(b"\xff\xc0", start)
        content[frame + 5 : frame + 7] = (17).to_bytes(2, "big")
        path.write_bytes(content)
    else:
        reader = ffcv_module("reader").Reader(str(path))
        at = reader.header.nbytes + reader.field_descriptors.nbytes + 3 * reader.metadata.dtype.itemsize
        row = np.frombuffer(bytes(content[at : at + reader.metadata.dtype.itemsize]), reader.metadata.dtype).copy()
        row["f0"]["height"] = 15
        content[at : at + row.nbytes] = row.tobytes()
        path.write_bytes(content)
        resealed(path)
    with pytest.raises(InputError, match=r"cannot decode image 3 \(.*its size is not that of the file's table"):
        list(beton_loader(image_set, path, configured()))


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": 3},
        {"fingerprint": None},
        {"fingerprint": []},
        {"data_set": {}},
        {"samples": "9"},
        {"samples": True},
        {"samples": -1},
        {"file_bytes": 1.5},
        {"file_bytes": 10**30},
        {"tables": 7},
        {"quality": None},
        {"raw_fraction": "x"},
        {"raw_fraction": float("nan")},
        {"max_resolution": [1]},
        {"format": ["x"]},
    ],
    ids=str,
)
def test_a_manifest_of_wrong_types_is_one_line(change, tmp_path):
    image_set, path = written(array_set, 9, max_resolution=16)
    path = copy(path, tmp_path)
    content = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=r"\.beton\.json is .*write .*\.beton again") as refused:
        open_beton(path, image_set, "os")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["[" * 99_999, '{"a":' * 5000, "9" * 5000, r'"\ud800"', "\xff"])
def test_a_manifest_that_is_no_json(content, tmp_path):
    image_set, path = written(array_set, 9, max_resolution=16)
    path = copy(path, tmp_path)
    manifest_path(path).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"write .*\.beton again"):
        open_beton(path, image_set, "os")
