"""Teacher caches, finished and half-written, with damaged manifests, arrays, records and parts."""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import assert_no_faults, cut, flipped, judge
from json_damage import damaged

from data_prep.cache_parts import Part, Work
from data_prep.cache_shares import settle
from pipeline.contracts import Batch, BatchInfo, InputError
from pipeline.teachers.cache_format import Layout, Manifest
from pipeline.teachers.cache_reader import CacheReader
from pipeline.teachers.cached import CachedTeacher

LAYOUT = Layout(samples=6, classes=5, pooled=3, views=2, dtype="topk", k=2, streams=("strong",))
IDENTITY = {
    **{"teacher": {"model": "x", "weights": "ab"}, "dataset": {"samples": 6}, "precision": {"amp": "off"}},
    **{"streams": {"strong": {"kind": "strong"}}, "data": {"seed": 0, "mean": [0.5]}},
}


def work(folder: Path) -> Work:
    """Two parts a view, of three samples each."""
    return Work(folder=folder, layout=LAYOUT, identity=dict(IDENTITY), steps=2, steps_per_part=1)


def rows(part: Part) -> dict[tuple[str, str], torch.Tensor]:
    """The outputs of a part."""
    draw = torch.Generator().manual_seed(part.view * 10 + part.number)
    return {(s, w): torch.randn(3, width, generator=draw) for s, w, _, width in LAYOUT.arrays()}


def write(todo: Work, *, until: int | None = None) -> None:
    """The whole cache, or so many parts of it."""
    if not todo.start():
        return
    for _ in range(6):
        for part in [part for view in range(LAYOUT.views) for part in todo.left(view)][:until]:
            todo.write(part, torch.arange(3) + 3 * part.number, rows(part))
        if until is not None:
            return
        if settle(todo, lambda: None):
            todo.finish()
            return
    raise AssertionError("the same error again and again")


def content(folder: Path) -> dict[str, bytes]:
    """All files below, by name."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    """The files as a folder, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path, check: str) -> None:
    """Everything in it, as a training does."""
    CacheReader(folder, torch.device("cpu"), on_device=False, check=check)
    teacher = CachedTeacher(folder, None, torch.device("cpu"), verify=check)
    teacher.accept({**IDENTITY, "precision": {"amp": "off", "fold": False}})
    index_B = torch.arange(6)
    for view in range(teacher.reader.layout.views):
        for stream in teacher.reader.streams:
            shown = {"image_BCHW": torch.zeros(6, 0), "label_B": index_B, "index_B": index_B}
            teacher(Batch(**shown, info=BatchInfo(view=view, stream=stream, host_index_B=index_B)))


def spoil_array(data: bytes, rng: random.Random) -> bytes:
    """Another array, or a damaged one."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 2), }" % rng.choice([0, -1, 10**15, 7])
    made = [
        *(cut(data, rng), flipped(data, rng), flipped(data[:128], rng, 3) + data[128:], b"", b"PK\x03\x04" + data[4:]),
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data[80:],
        b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118 + data[128:],
        b"\x80\x04]\x94." + data[5:],
        data[:128] + bytes(len(data) - 129) + b"\x7f",
    ]
    return rng.choice(made)


def cases(files: dict[str, bytes], rng: random.Random, number: int) -> list[tuple[str, str, bytes | str]]:
    """(teacher.verify, file, content or another thing in its place)."""
    made: list[tuple[str, str, bytes | str]] = []
    for _ in range(number):
        name = rng.choice(["manifest.json"] * 8 + [name for name in files if name.endswith(".npy")])
        spoiled = damaged(json.loads(files[name]), rng) if name.endswith(".json") else spoil_array(files[name], rng)
        thing = rng.choice(["fifo", "folder", "out", "loop", "none"]) if rng.random() < 0.1 else spoiled
        made.append((rng.choice(["first", "all", "off"]), name, thing))
    return made


def put(file: Path, thing: bytes | str, forged: bool) -> None:
    """forged: the manifest's size and sum follow."""
    file.unlink()
    if thing == "fifo":
        os.mkfifo(file)
    elif thing == "folder":
        file.mkdir()
    elif thing in ("out", "loop"):
        file.symlink_to("/etc/passwd" if thing == "out" else file.name)
    elif isinstance(thing, bytes):
        file.write_bytes(thing)
        if forged:
            manifest = json.loads((file.parent / "manifest.json").read_text())
            manifest["files"][file.name] = {"bytes": len(thing), "sha256": hashlib.sha256(thing).hexdigest()}
            (file.parent / "manifest.json").write_text(json.dumps(manifest))


def finished(folder: Path) -> dict[str, bytes]:
    """A whole cache."""
    write(work(folder))
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(
        Manifest(
            layout=LAYOUT, identity=IDENTITY, files=json.loads((folder / "manifest.json").read_text())["files"]
        ).text()
    )
    return content(folder)


def attempt(case: tuple[str, str, bytes | str], files: dict[str, bytes], folder: Path) -> None:
    check, name, thing = case
    laid(folder, files)
    put(folder / name, thing, forged=name.endswith(".npy") and hash(name + check) % 2 == 0)
    try:
        read(folder, check)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
        raise


def test_a_few_damaged_caches(tmp_path: Path, fuzz_rng: random.Random) -> None:
    files = finished(tmp_path / "whole")
    found = cases(files, fuzz_rng, 40)
    assert_no_faults(judge(found, lambda case: attempt(case, files, tmp_path / "c")), least_refused=10)


@pytest.mark.slow
def test_damaged_caches(tmp_path: Path, fuzz_rng: random.Random, fuzz_cases: int) -> None:
    files = finished(tmp_path / "whole")
    found = cases(files, fuzz_rng, fuzz_cases)
    assert_no_faults(judge(found, lambda case: attempt(case, files, tmp_path / "c"), memory_mb=1024))


@pytest.mark.slow
def test_damaged_scratch_is_computed_anew(tmp_path: Path, fuzz_rng: random.Random, fuzz_cases: int) -> None:
    """Whatever lies in .parts: one start ends with the bytes of an undisturbed writer, or says what is wrong."""
    whole = finished(tmp_path / "whole")
    half = work(tmp_path / "half")
    write(half, until=3)
    settle(half, lambda: None)
    files = content(tmp_path / "half")

    def case_of() -> tuple[str, bytes]:
        name = fuzz_rng.choice([name for name in files if name.startswith(".parts/")])
        if name.endswith(".json"):
            return name, damaged(json.loads(files[name]), fuzz_rng)
        made = [flipped(files[name], fuzz_rng), cut(files[name], fuzz_rng), b"", b"PK", np.ones(3).tobytes()]
        return name, fuzz_rng.choice(made)

    def begin(case: tuple[str, bytes]) -> None:
        name, thing = case
        folder = laid(tmp_path / "c", files)
        (folder / name).write_bytes(thing)
        write(work(folder))
        assert content(folder) == whole

    assert_no_faults(judge([case_of() for _ in range(fuzz_cases)], begin, memory_mb=1024), least_refused=0)
