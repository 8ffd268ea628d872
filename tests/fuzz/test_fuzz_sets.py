"""Trees with links and special files, damaged files of arrays and tables, and archives to be unpacked."""

import io
import os
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jpeg_files
import numpy as np
import pytest
from fuzz.fuzzing import assert_no_faults, command, cut, flipped, judge

from data_prep import imagenet as prepare_imagenet
from data_prep import tiny_imagenet as prepare_tiny
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet
from pipeline.datasets.synthetic import FILE

Case = tuple[str, int]  # what it is, and the seed of everything in it
WNIDS = ("n00000001", "n00000002", "n00000003")
NAMES = (
    *WNIDS,
    ".git",
    "__MACOSX",
    "@eaDir",
    "a b",
    "x.jpg",
    "y.JPEG",
    "ü",
    "\udcff",
    "-rf",
    "$(id)",
    "images",
    "0",
    "10",
)
TARGETS = (".", "..", "../..", "/", "/dev/zero", "/dev/null", "/nowhere", "../n00000002", "../../val", "x.jpg", "loop")
HEADERS = (
    "(" * 300,
    "{'descr': '<i8', 'fortran_order': False, 'shape': (1152921504606846975,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }",
    "{'descr': '<U9', 'fortran_order': True, 'shape': (), }",
    "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }",
    "x",
)


@cache
def picture() -> bytes:
    return jpeg_files.jpeg(1)


def fresh(folder: Path, dataset: str) -> Path:
    """A small whole tree, without the traces of another case."""
    root = folder / "tree"
    shutil.rmtree(root, ignore_errors=True)
    for wnid in WNIDS:
        for split in ("train", "val"):
            jpeg_files.write(root / split / wnid / f"{wnid}_0.JPEG", picture())
    if dataset == "tiny_imagenet":
        (root / "wnids.txt").write_text("\n".join(WNIDS))
    return root


def disturb(root: Path, rng: random.Random) -> None:
    """One thing more, or other, somewhere in the tree."""
    folders = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir() and not path.is_symlink())]
    path = rng.choice(folders) / rng.choice(NAMES)
    made: tuple[Callable[[], object], ...] = (
        lambda: path.symlink_to(rng.choice(TARGETS)),
        lambda: path.symlink_to(rng.choice(folders)),
        lambda: path.symlink_to(os.path.relpath(rng.choice(folders), path.parent)),
        lambda: os.mkfifo(path),
        lambda: path.mkdir(),
        lambda: jpeg_files.write(path / "z.jpg", picture()),
        lambda: path.write_bytes(b""),
        lambda: shutil.rmtree(rng.choice(folders[1:])),
        lambda: path.write_bytes(picture()),
    )
    rng.choice(made)()


def read_tree(folder: Path, rng: random.Random) -> None:
    dataset = rng.choice(("folder", "imagenet", "tiny_imagenet"))
    root = fresh(folder, dataset)
    for _ in range(rng.randrange(1, 6)):
        try:
            disturb(root, rng)
        except (FileExistsError, NotADirectoryError, FileNotFoundError, OSError):
            continue
    split = rng.choice(("train", "test"))
    found = DATASETS.get(dataset)(root=root, split=split, index=rng.choice(("off", "rebuild", "auto")))
    assert isinstance(found, FileSet)
    seen = [os.path.realpath(root / path) for path in found.paths if not (root / path).is_symlink()]
    assert len(set(seen)) == len(seen), "an image counts twice"
    parts = [part for path in found.paths for part in path.split("/")]
    assert not any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in parts)
    for index in range(len(found)):
        try:
            found.read(index)
        except InputError as error:
            assert "\n" not in str(error)


def broken_arrays(content: bytes, rng: random.Random) -> bytes:
    way = rng.randrange(6)
    if way == 0:
        return flipped(content, rng, bits=rng.randrange(1, 5))
    if way == 1:  # in the zip's directory
        at = content.find(b"PK\x01\x02")
        return content[:at] + flipped(content[at:], rng, bits=rng.randrange(1, 4))
    if way == 2:
        return cut(content, rng)
    if way == 3:  # another header
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
            chosen = rng.choice(source.namelist())
            for name in source.namelist():
                line = rng.choice(HEADERS).encode() + b"\n"
                body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + rng.randbytes(rng.randrange(60))
                target.writestr(name, body if name == chosen else source.read(name))
        return made.getvalue()
    if way == 4:  # other arrays
        with np.load(io.BytesIO(content)) as file:
            arrays = {name: file[name] for name in file.files}
        name = rng.choice([*arrays])
        odd = (np.zeros(0), np.array("x"), np.array([-1, 2**62]), np.zeros((2, 2, 2)), np.array([1.5, np.nan]))
        arrays[name] = rng.choice(
            (*odd, arrays[name][..., None], arrays[name].astype("S4"), np.atleast_1d(arrays[name])[:0])
        )
        if rng.random() < 0.2:
            del arrays[name]
        made = io.BytesIO()
        np.savez(made, **arrays)
        return made.getvalue()
    return rng.randbytes(rng.randrange(300))


def read_index(folder: Path, rng: random.Random) -> None:
    """Damage of any kind: a note and a walk, or the same set."""
    root = jpeg_files.aged(fresh(folder, "imagenet"))
    whole = DATASETS.get("imagenet")(root=root, index="rebuild")
    path = root / ".stillhouse-imagenet-train.index.npz"
    path.write_bytes(broken_arrays(path.read_bytes(), rng))
    found = DATASETS.get("imagenet")(root=root, index="auto")
    assert found.label_N.max() < len(found.class_names) and len(found.paths) == len(found.label_N)
    if found.fingerprint() != whole.fingerprint():
        assert all(not path.startswith(("/", "..")) for path in found.paths)  # a forged one: still no way out
    else:
        raise InputError("a note and a walk, or the same")


def read_synthetic(folder: Path, rng: random.Random) -> None:
    content = (folder / "whole.npz").read_bytes()
    (folder / FILE).write_bytes(broken_arrays(content, rng))
    found = DATASETS.get("synthetic")(root=folder, split="test")
    assert found.pixels_NHWC.shape == (len(found), 32, 32, 3)


def read_table(folder: Path, rng: random.Random) -> None:
    """Validation images in one folder, and a table of their classes that is anything."""
    root = fresh(folder, "tiny_imagenet")
    for wnid in WNIDS:
        image = root / "val" / wnid / f"{wnid}_0.JPEG"
        image.rename(root / "val" / f"ILSVRC2012_val_0000000{wnid[-1]}.JPEG")
        shutil.rmtree(root / "val" / wnid)
    lines = [f"ILSVRC2012_val_0000000{k + 1}.JPEG {wnid}" for k, wnid in enumerate(WNIDS)]
    numbers = ("1", "2", "²", "-1", "9" * 5000, "n1", "", "n00000001", "\0", "\ufeff", "٣", "0x1")
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(lines))
        lines[at] = rng.choice((*numbers, lines[at].replace(" ", rng.choice('\t,;"\x0b\x85'))))
    data = rng.choice(("\n", "\r\n", "\r")).join(lines).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16", "utf-32")))
    data = rng.choice((data, data, flipped(data, rng), cut(data, rng)))
    name = rng.choice(("val.txt", "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "wnids.txt"))
    (root / name).write_bytes(data)
    (root / "map_clsloc.txt").write_bytes(rng.choice((data, b"n00000001 1 a\nn00000002 2 b")))
    DATASETS.get("tiny_imagenet" if name == "wnids.txt" else "imagenet")(root=root, split="test")


def member(rng: random.Random, tar: tarfile.TarFile, data: bytes) -> None:
    info = tarfile.TarInfo(
        rng.choice((*NAMES, "n00000001/a.JPEG", "../x.JPEG", "/tmp/x.JPEG", "a/../../x.JPEG", "./."))
    )
    info.type = rng.choice(
        (tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    )
    info.linkname = rng.choice(TARGETS)
    info.size = len(data) if info.isfile() else 0
    tar.addfile(info, io.BytesIO(data) if info.isfile() else None)


def archive(rng: random.Random, depth: int = 0) -> bytes:
    made = io.BytesIO()
    if depth == 0 and rng.random() < 0.3:
        with zipfile.ZipFile(made, "w", rng.choice((0, 8, 12, 14))) as packed:
            for _ in range(rng.randrange(5)):
                name = rng.choice(
                    ("tiny-imagenet-200/train/n1/images/a.JPEG", "n00000001/a.JPEG", "__MACOSX/x.jpg", "../x.jpg")
                )
                packed.writestr(name, picture())
    else:
        with tarfile.open(fileobj=made, mode=rng.choice(("w", "w:gz", "w:xz", "w:bz2")) if depth == 0 else "w") as tar:
            for _ in range(rng.randrange(5)):
                member(rng, tar, archive(rng, depth + 1) if depth < 2 and rng.random() < 0.3 else picture())
    data = made.getvalue()
    return rng.choice((data, data, flipped(data, rng, bits=4), cut(data, rng) if data else data))


def unpack(folder: Path, rng: random.Random) -> None:
    shutil.rmtree(folder / "inside", ignore_errors=True)
    out, path = folder / "inside" / "out", jpeg_files.write(folder / "inside" / "archive", archive(rng))
    before = sorted(p.name for p in folder.iterdir())
    try:
        if rng.random() < 0.3:
            command(prepare_tiny, [f"out={out}", f"archive={path}", "workers=1"])
        else:
            source = f"train={path}" if rng.random() < 0.7 else f"val={path}"
            command(prepare_imagenet, [f"out={out}", source, "workers=1"])
    finally:
        assert sorted(p.name for p in folder.iterdir()) == before and not Path("/tmp/x.JPEG").exists()
        assert sorted(p.name for p in (folder / "inside").iterdir() if p != out) == ["archive"]


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "tree": read_tree,
    "index": read_index,
    "synthetic": read_synthetic,
    "table": read_table,
    "archive": unpack,
}


def tried(kind: str, seed: int, count: int, folder: Path) -> None:
    if kind == "synthetic":
        from pipeline.datasets.synthetic import to_arrays

        np.savez(folder / "whole.npz", **to_arrays())  # type: ignore[arg-type]
    cases = [(kind, seed + i) for i in range(count)]
    run: Callable[[Case], None] = lambda case: KINDS[case[0]](folder, random.Random(case[1]))  # noqa: E731
    assert_no_faults(judge(cases, run, memory_mb=1500), count // 8)


@pytest.mark.parametrize("kind", ["tree", "index", "table"])
def test_a_few(kind: str, tmp_path: Path) -> None:
    tried(kind, 1, 24, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sets(kind: str, fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    tried(kind, fuzz_rng.randrange(2**40), fuzz_cases // (8 if kind == "synthetic" else 1), tmp_path)
