"""The dali loader and files that cannot be decoded, by anybody or by DALI only."""

import io

import numpy as np
import pytest
import torch
from jpeg_tree import jpeg_set
from PIL import Image
from test_dali_loader import by_torch, make, same

from pipeline.contracts import InputError
from pipeline.datasets.image_set import FileSet
from pipeline.datasets.replacing import ReplacingSet

BAD = 20


@pytest.fixture
def files(tmp_path):
    return jpeg_set(tmp_path)


def damage(files, index, content):
    path = files.root / files.paths[index]
    path.write_bytes(content(path.read_bytes()))


DAMAGES = pytest.mark.parametrize(
    "content",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff\xd8\xff nothing like an image"],
    ids=["cut short", "empty", "not an image"],
)


@DAMAGES
def test_a_bad_image_is_named_when_its_batch_is_due(files, content):
    damage(files, BAD, content)
    loader = make(files, train=False, batch_size=8)
    taken = []
    with pytest.raises(InputError, match=rf"020\.JPEG \(class 'class1', index {BAD}\)") as caught:
        taken += loader
    assert "\n" not in str(caught.value)
    batches = iter(loader)
    loader.set_epoch(0)
    assert [next(batches).index_B[0].item() for _ in range(2)] == [0, 8]
    assert loader.state_dict() == {"epoch": 0, "step": 2}


@DAMAGES
def test_a_bad_image_is_replaced_as_in_the_torch_loader(files, content):
    damage(files, BAD, content)
    mine, theirs = ReplacingSet(files), ReplacingSet(files)
    loader, other = make(mine), by_torch(theirs)
    for _ in range(3):
        assert all(same(a, b) for a, b in zip(loader, other, strict=True))
    assert {i: found.shown for i, found in mine.replaced.items()} == {BAD: BAD + 1}


def as_gif(files, monkeypatch, *bad):
    """As if DALI did not know the format of these files. Returns how often they were handed to it."""
    given = []
    encoded = FileSet.encoded

    def foreign(self, index):
        if index not in bad:
            return encoded(self, index)
        given.append(index)
        stream = io.BytesIO()
        Image.fromarray(self.read(index)).save(stream, "GIF")
        return stream.getvalue()

    monkeypatch.setattr(FileSet, "encoded", foreign)
    return given


def test_what_only_dali_refuses_is_decoded_by_the_set(files, monkeypatch):
    expected = [batch for loader in [by_torch(files)] for _ in range(3) for batch in loader]
    given = as_gif(files, monkeypatch, BAD, BAD + 1, 3)
    loader = make(files)
    found = [batch for _ in range(3) for batch in loader]
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert set(given) == {3, BAD, BAD + 1} and len(given) < 9  # known from then on


def test_what_dali_and_the_set_refuse_is_an_error_of_the_set(files, monkeypatch):
    as_gif(files, monkeypatch, BAD)
    read = FileSet.read

    def failing(self, index):
        if index == BAD and calls.append(index) is None and len(calls) > 1:
            raise InputError("image 20 is broken")
        return read(self, index)

    calls = []
    monkeypatch.setattr(FileSet, "read", failing)
    with pytest.raises(InputError, match="image 20 is broken"):
        list(make(files, train=False))


def test_formats_that_dali_shows_otherwise(files):
    """Inks, transparency, palettes, orientation: whatever Pillow makes of them."""
    picture = Image.open(files.root / files.paths[0]).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = np.dstack([np.asarray(picture), np.full((picture.height, picture.width), 60, np.uint8)])
    for index, (image, options) in enumerate(
        (
            (picture.convert("CMYK"), {"format": "JPEG"}),
            (Image.fromarray(clear), {"format": "PNG"}),
            (picture.quantize(), {"format": "PNG"}),
            (picture, {"format": "JPEG", "exif": turned}),
            (picture, {"format": "GIF"}),
            (picture, {"format": "WEBP"}),
        )
    ):
        image.save(files.root / files.paths[index], **options)
    loader, other = make(files, index_N=np.arange(6)), by_torch(files, index_N=np.arange(6))
    for a, b in zip(loader, other, strict=True):
        assert torch.equal(a.image_BCHW, b.image_BCHW)
