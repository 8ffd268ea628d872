"""Run folders in which files are damaged, or checkpoints made by hand: gone on with, or refused in one line."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import short_runs
import torch
from fuzzing import assert_no_faults, command, cut, flipped, judge

from pipeline import train
from pipeline.run_folder.checkpoint_file import seal, unseal

FILES = ("config.yaml", "environment.json", "description.json", "metrics.jsonl", "summary.json", "replaced.jsonl")
VALUES = (None, True, -1, 0, 3, 10**9, 10**30, 1.5, float("nan"), "x", "", [], {}, [1], {"a": 1}, torch.ones(2))
TEXTS = ("3\n", "{}\n", "[" * 5000, "\0", "{'", "null\n", '{"epoch": 1}\n', "a: *b\n", "- 1\n", "é\n")


def forged(state: Any, rng: random.Random) -> Any:
    """`state` with one entry, somewhere, of another value, or gone."""
    place = state
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        inner = place[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            place = inner
            continue
        if rng.random() < 0.3:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        return state


def damage(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    last = folder / "checkpoints" / "last.pt"
    if rng.random() < 0.5:
        last.write_bytes(seal(forged(unseal(last), rng)))
        return
    path = rng.choice([folder / name for name in FILES] + list((folder / "checkpoints").iterdir()))
    content = path.read_bytes() if path.exists() else b"{}"
    kind = rng.randrange(6)
    if kind == 0:
        path.unlink(missing_ok=True)
    elif kind == 1 and path.suffix != ".pt":
        at = rng.randrange(len(content) + 1)
        path.write_bytes(content[:at] + rng.choice(TEXTS).encode() + content[at:])
    elif kind == 2:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(cut(content, rng) if kind == 3 and content else flipped(content, rng, bits=kind))


@pytest.mark.slow
def test_damaged_run_folders(tmp_path: Path, fuzz_rng: random.Random, fuzz_cases: int) -> None:
    root = short_runs.make_data(tmp_path)
    more = ("run.checkpoint_steps=1",)
    half = short_runs.stop(root, "half", short_runs.after_step(5), *more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        train.main(short_runs.words(root, "whole", *more))

    def run(case: int) -> None:
        source = half if case % 3 else root / "whole"
        folder = root / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        damage(folder, case)
        command(train, short_runs.words(root, "case", *more))

    cases = [fuzz_rng.randrange(10**9) for _ in range(fuzz_cases)]
    assert_no_faults(judge(cases, run, seconds=60))
