"""Images that say to be huge are refused before they are decoded; wide pixels are scaled to 8 bits, and it is said."""

import struct
from pathlib import Path

import crafted_images
import jpeg_files
import numpy as np
import pytest
from crafted_images import BOMBS, png, saying
from loader_configs import loader_config
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet, decode, pillow
from pipeline.datasets.decode import decode_rgb, read_size
from pipeline.datasets.encoded import as_read_by_all, check
from pipeline.datasets.image_set import MachineFault
from pipeline.datasets.notes import Once
from pipeline.datasets.replacing import ReplacingSet
from pipeline.loaders import LOADERS

RAMP_HW = (np.arange(9 * 14).reshape(9, 14) * 521).astype(np.uint16)  # 0 .. 65125
Array = NDArray[np.generic]


def tiff(values_HW: Array) -> bytes:
    return crafted_images.encoded(Image.fromarray(values_HW), "TIFF")


def pgm(values_HW: NDArray[np.uint16]) -> bytes:
    return b"P5\n%d %d\n65535\n" % values_HW.shape[::-1] + values_HW.astype(">u2").tobytes()


WIDE: dict[str, tuple[bytes, Array]] = {
    "png": (png(RAMP_HW[:, :, None]), RAMP_HW >> 8),
    "tiff": (tiff(RAMP_HW), RAMP_HW >> 8),
    "pgm": (pgm(RAMP_HW), RAMP_HW >> 8),
    "32 bits": (tiff(RAMP_HW.astype(np.int32)), RAMP_HW >> 8),
    "float of 16 bits": (tiff(RAMP_HW.astype(np.float32)), RAMP_HW >> 8),
    "float of 0 to 1": (tiff((RAMP_HW / 65535).astype(np.float32)), np.rint(RAMP_HW / np.float32(65535) * 255)),
    "float of 0 to 255": (tiff((RAMP_HW >> 8).astype(np.float32)), RAMP_HW >> 8),
    "bytes in 16 bits": (png(RAMP_HW[:, :, None] >> 8), RAMP_HW >> 8),
    "bytes in 32 bits": (tiff((RAMP_HW >> 8).astype(np.int32)), RAMP_HW >> 8),
    "colours": (png(np.stack([RAMP_HW, 65535 - RAMP_HW, RAMP_HW // 2], 2)), np.zeros(0)),
    "colours and alpha": (png(np.stack([RAMP_HW, 65535 - RAMP_HW, RAMP_HW // 2, RAMP_HW], 2)), np.zeros(0)),
    "grey and alpha": (png(np.stack([RAMP_HW, 65535 - RAMP_HW], 2)), RAMP_HW >> 8),
}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_scaled", "_bytes_lost"):
        monkeypatch.setattr(pillow, name, Once())


@pytest.mark.parametrize("kind", WIDE)
def test_wide_pixels_are_scaled_and_it_is_said_once(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, grey_HW = WIDE[kind]
    if not grey_HW.size:
        expected = np.stack([RAMP_HW >> 8, (65535 - RAMP_HW) >> 8, (RAMP_HW // 2) >> 8], 2)
    else:
        expected = np.repeat(grey_HW[:, :, None], 3, axis=2)
    for _ in range(3):
        found = decode_rgb(data)
        assert found.dtype == np.uint8 and found.flags.writeable
        np.testing.assert_array_equal(found, expected)
    err = capsys.readouterr().err
    same = "bytes in" in kind or "255" in kind
    assert err.count("\n") == (0 if same else 1) and err.startswith("" if same else "note: an image h"), err
    np.testing.assert_array_equal(decode_rgb(as_read_by_all(data)), expected)
    check(data)


BEYOND = {
    "below": RAMP_HW.astype(np.int32) - 1,
    "above": (RAMP_HW.astype(np.int32) * 2),
    "float below": np.where(RAMP_HW == 0, -0.1, RAMP_HW / 65535).astype(np.float32),
    "float above": RAMP_HW.astype(np.float32) * 2,
    "nan": np.where(RAMP_HW == 0, np.nan, RAMP_HW).astype(np.float32),
    "infinite": np.where(RAMP_HW == 0, np.inf, RAMP_HW).astype(np.float32),
}


@pytest.mark.parametrize("values", BEYOND.values(), ids=BEYOND.keys())
def test_numbers_that_are_no_pixels_are_refused(values: Array) -> None:
    with pytest.raises(InputError, match=r"it holds numbers from .* to .*: neither 0 to 1"):
        decode_rgb(tiff(values))


@pytest.mark.parametrize("loader", ["resident", "torch"])
def test_every_loader_shows_the_scaled_pixels(loader: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        for name in ("a", "b"):
            jpeg_files.write(tmp_path / "train" / name / f"{i}.png", WIDE["png"][0])
    files = DATASETS.get("folder")(root=tmp_path)
    how = {"image_size": 9, "mean": (0.0,) * 3, "std": (1.0,) * 3, "train": False, "workers": 2}
    for batch in LOADERS.get(loader)(files, loader_config(batch_size=2, **how)):
        shown = (batch.image_BCHW[:, 0] * 255).round().numpy()
        np.testing.assert_array_equal(shown[0], np.asarray((RAMP_HW >> 8)[:, 2:11]))
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("note:")]
    assert len(lines) == 1 and f"{tmp_path}/train/" in lines[0], err  # by whichever worker was first


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("size", [(9_460, 9_460), (30_000, 30_000), (65_500, 65_500)], ids=str)
def test_bombs_are_refused_by_their_headers(
    kind: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "WEBP" and size[0] == 65_500:
        size = (16_384, 65_500)  # a canvas has at most 2^32 - 1 pixels
    data = saying(kind, *size)
    root = jpeg_files.tree(tmp_path)
    path = jpeg_files.write(root / "train" / "n00000001" / "n00000001_1.JPEG", data)
    files: FileSet = DATASETS.get("imagenet")(root=root)
    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    says = rf"it says (more|{size[1]} x {size[0]}) pixels,? (more )?than data\.max_pixels=89478485"
    for act in (decode_rgb, as_read_by_all, check):
        with pytest.raises(InputError, match=says):
            act(data)
    with pytest.raises(InputError, match=says):
        read_size(path)
    for act in (files.read, files.encoded, files.check, files.size):
        with pytest.raises(InputError, match=rf"cannot decode .*n00000001_1\.JPEG .*({says})") as caught:
            act(1)
        assert "\n" not in str(caught.value) and not isinstance(caught.value, MachineFault)


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_replaced(kind: str, tmp_path: Path) -> None:
    root = jpeg_files.tree(tmp_path)
    jpeg_files.write(root / "train" / "n00000001" / "n00000001_1.JPEG", saying(kind, 16_000, 16_000))
    for index in ("off", "rebuild"):
        files = ReplacingSet(DATASETS.get("imagenet")(root=root, index=index))
        for act in (files.read, files.encoded, files.size, files.read_bytes, files.shown):
            act(1)
        assert {i: found.shown for i, found in files.replaced.items()} == {1: 2}


def test_the_limit_is_a_key(tmp_path: Path) -> None:
    root = jpeg_files.tree(tmp_path)  # 20 x 28 pixels and more
    files: FileSet = DATASETS.get("imagenet")(root=root)
    low = FileSet(**{**files.__dict__, "max_pixels": 20 * 28})
    assert low.read(0).shape == (20, 28, 3)
    with pytest.raises(InputError, match="it says 28 x 21 pixels, more than"):
        low.read(1)
    before = Image.MAX_IMAGE_PIXELS
    try:
        data = saying("PNG", 14_000, 14_000)
        with pytest.raises(InputError, match=r"truncated|broken|incomplete"):  # allowed now, and not there
            decode_rgb(data[:60], 200_000_000)
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = saying("JPEG progressive", 8_000, 8_000)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x05\x02\x7f"
    with pytest.raises(InputError, match=r"it has 1\d\d\d scans of 8000 x 8000 pixels"):
        decode_rgb(data[:-2] + scan * 1_000 + data[-2:])


@pytest.mark.parametrize(("room", "fault"), [(True, InputError), (False, MachineFault)])
def test_memory_that_does_not_do(
    room: bool, fault: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that asks for more than any image needs is replaced; a machine that has none left is not."""
    files = ReplacingSet(DATASETS.get("imagenet")(root=jpeg_files.tree(tmp_path)))
    read = decode.decode_rgb

    def fail(data: bytes, most: int) -> Array:
        if data == files.files.read_bytes(1):
            raise MemoryError
        return read(data, most)

    monkeypatch.setattr(decode, "decode_rgb", fail)
    if not room:
        monkeypatch.setattr("pipeline.datasets.image_set.np.empty", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(fault, match=r"n00000001_1\.JPEG .*Cannot allocate memory"):
            files.read(1)
        return
    with pytest.raises(fault, match=r"n00000001_1\.JPEG .*more memory than an image of its size needs"):
        files.files.read(1)
    files.read(1)
    assert files.replaced[1].shown == 2


@pytest.mark.parametrize("name", ["EPS", "WMF"])
def test_formats_for_which_other_programs_are_started_are_not_tried(name: str) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    wmf = struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 9, 9, 72, 0, 0) + bytes(40)
    assert name in Image.ID or not Image.init() or name in Image.ID
    with pytest.raises(InputError, match="not an image of a known format"):
        decode_rgb(eps if name == "EPS" else wmf)
