"""Files of arrays that others may have damaged: the synthetic set is refused in one line, an index costs a note."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import jpeg_files
import numpy as np
import pytest

from data_prep import synthetic as prep
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.synthetic import FILE

INDEX = ".stillhouse-imagenet-train.index.npz"


def in_directory(content: bytes, at: int, value: int) -> bytes:
    """The zip with a number of 16 bits changed in every entry of its directory and before every member."""
    changed = bytearray(content)
    for mark, shift in ((b"PK\x01\x02", at), (b"PK\x03\x04", at - 2)):
        start = changed.find(mark)
        while start >= 0:
            changed[start + shift : start + shift + 2] = struct.pack("<H", value)
            start = changed.find(mark, start + 4)
    return bytes(changed)


def with_header(content: bytes, header: str) -> bytes:
    """The zip with another header in each of its arrays."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            line = header.encode().ljust(118) + b"\n"
            target.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + bytes(64))
    return made.getvalue()


def compressed(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return made.getvalue()


def one_array(_: bytes) -> bytes:
    made = io.BytesIO()
    np.save(made, np.zeros(3))
    return made.getvalue()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "encrypted": lambda c: in_directory(c, 8, 1),
    "compression": lambda c: in_directory(c, 10, 99),
    "deflate": lambda c: in_directory(c, 10, 8),
    "version": lambda c: in_directory(c, 6, 999),
    "compressed": compressed,
    "deep header": lambda c: with_header(c, "(" * 100),
    "unclosed header": lambda c: with_header(c, "{'descr': '<i8', 'shape': ("),
    "huge shape": lambda c: with_header(
        c, "{'descr': '<i8', 'fortran_order': False, 'shape': (1152921504606846975,), }"
    ),
    "large shape": lambda c: with_header(c, "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }"),
    "negative shape": lambda c: with_header(c, "{'descr': '<i8', 'fortran_order': False, 'shape': (-5,), }"),
    "objects": lambda c: with_header(c, "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }"),
    "an array": one_array,
    "no array": lambda c: with_header(c, "x"),
    "a tar": lambda c: b"ustar" * 300,
    "cut": lambda c: c[: len(c) // 3],
    "directory only": lambda c: c[c.rfind(b"PK\x01\x02") :],
    "empty": lambda c: b"",
    "empty zip": lambda c: b"PK\x05\x06" + bytes(18),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return prep.write(tmp_path_factory.mktemp("set")).read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_synthetic_file(damage: str, written: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(DAMAGE[damage](written))
    with pytest.raises(InputError, match=rf"{FILE} is damaged.*; delete it, or write it again") as caught:
        DATASETS.get("synthetic")(root=tmp_path, split="test")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("damage", DAMAGE)
def test_index(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = jpeg_files.aged(jpeg_files.tree(tmp_path / "tree"))
    found = DATASETS.get("imagenet")(root=root, index="rebuild")
    path = root / INDEX
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    again = DATASETS.get("imagenet")(root=root, index="auto")
    assert again.fingerprint() == found.fingerprint() and again.size_N2 is None
    err = capsys.readouterr().err
    assert err.startswith("note: ") and err.count("\n") == 1 and "is not used: it is damaged" in err


@pytest.mark.parametrize("special", ["fifo", "folder", "device"])
def test_what_is_no_file(special: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = {"fifo": os.mkfifo, "folder": Path.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[special]
    make(tmp_path / FILE)
    with pytest.raises(InputError, match="is damaged"):
        DATASETS.get("synthetic")(root=tmp_path, split="test")
    root = jpeg_files.tree(tmp_path / "tree")
    make(root / INDEX)
    assert len(DATASETS.get("imagenet")(root=root, index="auto")) == 12
    assert "is not used: it is damaged" in capsys.readouterr().err
