""".beton files and their manifests, damaged: refused when they are opened or read, never shown otherwise."""

import functools
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzzing import assert_no_faults, cut, flipped, judge
from json_damage import damaged

sys.path.append(str(Path(__file__).parents[1] / "loaders"))
from beton_files import beton_loader, raw_files, written
from small_sets import file_set
from test_beton_loader import configured

from pipeline.contracts import InputError
from pipeline.loaders.ffcv.manifest import manifest_path


def shown(image_set: Any, path: Path) -> bytes:
    """All pixels of an epoch."""
    return b"".join(batch.image_BCHW.numpy().tobytes() for batch in beton_loader(image_set, path, configured()))


def spoil(content: bytes, table_at: int, head: int, rng: random.Random) -> bytes:
    """The file with something wrong in it."""
    kind = rng.randrange(4)
    if kind == 0:
        return cut(content, rng)
    if kind == 1:
        return flipped(content, rng)
    changed = bytearray(content)
    # A byte of the head, a whole field, or a byte of the table of allocations.
    at = rng.randrange(head) if rng.random() < 0.6 else table_at + rng.randrange(len(content) - table_at)
    changed[at : at + rng.choice([1, 4, 8])] = rng.choice([b"\xff", b"\x00", b"\xff" * 4, b"\x00\x00\x00\x80"])
    return bytes(changed[: len(content)]).ljust(len(content), b"\0")


def attempt(case: tuple[str, bytes], image_set: Any, whole: bytes, text: bytes, pixels: bytes, place: Path) -> None:
    """The file or its manifest is `case`'s; what is shown all the same must be what was written."""
    which, content = case
    place.unlink(missing_ok=True)  # threads may still read the one before
    place.write_bytes(content if which == "file" else whole)
    manifest_path(place).write_bytes(text if which == "file" else content)
    try:
        found = shown(image_set, place)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 700, str(error)
        raise
    assert found == pixels, "other pixels, and nobody said so"


def run(folder: Path, rng: random.Random, number: int) -> None:
    for image_set, path in (written(file_set, 9, max_resolution=40), raw_files(9)):
        whole, text = path.read_bytes(), manifest_path(path).read_bytes()
        pixels = shown(image_set, path)
        table_at = int.from_bytes(whole[24:32], "little")
        head = min(len(whole), 1500)
        cases: list[tuple[str, bytes]] = []
        for _ in range(number // 2):
            if rng.random() < 0.4:
                cases.append(("manifest", damaged(json.loads(text), rng)))
            else:
                cases.append(("file", spoil(whole, table_at % len(whole), head, rng)))
        given = {"image_set": image_set, "whole": whole, "text": text, "pixels": pixels, "place": folder / "x.beton"}
        verdicts = judge(cases, functools.partial(attempt, **given), memory_mb=2048)
        assert_no_faults(verdicts, least_refused=number // 8)


def test_a_few_damaged_files(tmp_path: Path, fuzz_rng: random.Random) -> None:
    run(tmp_path, fuzz_rng, 30)


@pytest.mark.slow
def test_damaged_files(tmp_path: Path, fuzz_rng: random.Random, fuzz_cases: int) -> None:
    run(tmp_path, fuzz_rng, fuzz_cases)
