"""Decoding is bit-equal to Pillow's convert("RGB"), whatever the format and the colours."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets.decode import decode_rgb, decode_upper, jpeg_size, read_size

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "444": ("RGB", "JPEG", {"subsampling": 0, "quality": 90}),
    "422": ("RGB", "JPEG", {"subsampling": 1, "quality": 60}),
    "420": ("RGB", "JPEG", {"subsampling": 2, "quality": 95}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "restart": ("RGB", "JPEG", {"restart_marker_blocks": 3}),
    "rgb jpeg": ("RGB", "JPEG", {"keep_rgb": True}),
    "grey jpeg": ("L", "JPEG", {}),
    "four inks": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "palette": ("P", "PNG", {}),
    "see-through palette": ("P", "PNG", {"transparency": b"\x00\x80"}),
    "alpha": ("RGBA", "PNG", {}),
    "grey alpha": ("LA", "PNG", {}),
    "one bit": ("1", "PNG", {}),
    "16 bit": ("I;16", "PNG", {}),
    "webp": ("RGB", "WEBP", {"quality": 70}),
    "webp alpha": ("RGBA", "WEBP", {"lossless": True}),
    "bmp": ("RGB", "BMP", {}),
    "ppm": ("RGB", "PPM", {}),
    "tiff": ("RGB", "TIFF", {}),
}


def scene() -> Image.Image:
    rng = np.random.Generator(np.random.Philox(5))
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((67, 45), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(np.int64) + rng.integers(-20, 20, (45, 67, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(mode: str, kind: str, options: dict[str, Any]) -> bytes:
    image = scene().convert("I").convert(mode) if mode == "I;16" else scene().convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(np.arange(45 * 67, dtype=np.uint16).astype(np.uint8).reshape(45, 67)))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(("mode", "kind", "options"), KINDS.values(), ids=KINDS.keys())
def test_equal_to_pillow(mode: str, kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = encoded(mode, kind, options)
    found = decode_rgb(data)
    assert found.dtype == np.uint8 and found.shape == (45, 67, 3) and found.flags.writeable
    np.testing.assert_array_equal(found, by_pillow(data))
    (tmp_path / "x").write_bytes(data)
    assert read_size(tmp_path / "x") == (45, 67)


def test_orientation_tags_are_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = encoded("RGB", "JPEG", {"exif": exif})
    np.testing.assert_array_equal(decode_rgb(data), decode_rgb(encoded("RGB", "JPEG", {})))
    (tmp_path / "x").write_bytes(data)
    assert read_size(tmp_path / "x") == (45, 67)


def test_a_header_longer_than_the_first_bytes(tmp_path: Path) -> None:
    data = encoded("RGB", "JPEG", {"icc_profile": bytes(200_000)})
    (tmp_path / "x").write_bytes(data)
    assert read_size(tmp_path / "x") == (45, 67)
    np.testing.assert_array_equal(decode_rgb(data), by_pillow(data))


def test_a_small_fault_is_read_as_pillow_reads_it() -> None:
    data = encoded("RGB", "JPEG", {})
    middle = len(data) // 2
    faulty = data[:middle] + bytes([data[middle] ^ 0x15]) + data[middle + 1 :]
    for variant in (faulty, data[:-2] + b"garbage" + data[-2:], data + b"garbage"):
        np.testing.assert_array_equal(decode_rgb(variant), by_pillow(variant))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_cut_and_foreign_files(kind: str, tmp_path: Path) -> None:
    data = encoded("RGB", kind, {})
    for bad in (data[: len(data) // 2], data[:40], data[:3], b"", b"text, not pixels"):
        with pytest.raises(InputError) as caught:
            decode_rgb(bad)
        assert str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "x").write_bytes(data[:3])
    with pytest.raises(InputError, match="not an image of a known format"):
        read_size(tmp_path / "x")
    with pytest.raises(InputError, match="No such file"):
        read_size(tmp_path / "y")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{"subsampling": k} for k in (0, 1, 2)] + [{"restart_marker_rows": 1}], ids=str)
def test_the_upper_rows_are_those_of_the_whole(mode: str, options: dict[str, Any]) -> None:
    data = encoded(mode, "JPEG", options)
    whole = decode_rgb(data)
    for rows in range(1, 46):
        found = decode_upper(data, (45, 67), rows)
        assert found is not None and rows <= len(found) <= min(rows + 32, 45)
        np.testing.assert_array_equal(found[:rows], whole[:rows])


def test_upper_rows_at_a_fraction_of_the_size() -> None:
    data = encoded("RGB", "JPEG", {"quality": 95})
    for factor in (2, 4, 8):
        for rows in (9, 45):
            found = decode_upper(data, (45, 67), rows, factor)
            assert found is not None and found.shape[1] == -(-67 // factor) and found.shape[0] * factor >= rows
            whole = decode_rgb(data)[: rows // factor * factor, : 67 // factor * factor].astype(float)
            means = whole.reshape(rows // factor, factor, 67 // factor, factor, 3).mean(axis=(1, 3))
            assert np.abs(found[: len(means), : means.shape[1]] - means).mean() < 6


def test_upper_rows_of_anything_else_are_left_to_the_whole_decoder() -> None:
    data = encoded("RGB", "JPEG", {"subsampling": 0})
    middle = len(data) // 2
    faulty = data[:middle] + bytes([data[middle] ^ 0x15]) + data[middle + 1 :]
    for bad in (data[:-2], data[:-1], data[:middle], data[:40], data[:3], b""):
        assert decode_upper(bad, (45, 67), 16) is None and decode_upper(bad, (45, 67), 45) is None
    assert decode_upper(faulty, (45, 67), 45) is None
    above = decode_upper(faulty, (45, 67), 8)  # the fault lies below
    assert above is not None and np.array_equal(above[:8], by_pillow(faulty)[:8])
    for mode, kind, options in (("RGB", "JPEG", {"progressive": True}), ("RGB", "PNG", {}), ("CMYK", "JPEG", {})):
        other = encoded(mode, kind, options)
        assert jpeg_size(other) is None or decode_upper(other, (45, 67), 16) is None
