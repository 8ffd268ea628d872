"""Descriptions in files and records beside weights, damaged: used, left alone, or refused in one line."""

import json
import random
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fuzzing import assert_no_faults, command, judge
from json_damage import damaged
from test_fuzz_records import spoiled

from pipeline import export
from pipeline.contracts import InputError
from pipeline.run_folder.description import parse
from pipeline.run_folder.student import known_of

RUN = Path(__file__).parents[1] / "past" / "runs" / "simkd"
WEIGHTS = RUN / "checkpoints" / "best.pt"
RECORDS = ("config.yaml", "summary.json", "environment.json")
SAID = {
    **{"format": 1, "dataset": "cifar100", "networks": "cifar", "model": "resnet8", "block": None, "args": {}},
    **{"num_classes": 100, "class_names": [f"c{k}" for k in range(100)], "method": "simkd", "variant": "default"},
    "data": {
        **{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "image_size": 32, "eval_image_size": None},
        **{"crop": "pad", "resize": None, "eval_flip": False, "interpolation": "bilinear"},
    },
    "method_args": {"factor": 2, "feat_weight": 1.0, "ce_weight": 0.0},
    "predictor": {"method": "simkd", "module": ""},
}


def told(text: bytes) -> object:
    """The damaged words as a checkpoint can hold them: JSON where they still are."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.decode("utf-8", "replace")


def test_damaged_words_are_one_line(fuzz_rng: random.Random, fuzz_cases: int) -> None:
    def look(text: bytes) -> None:
        try:
            parse(text, "x.pt: its description")
        except InputError as error:
            assert "\n" not in str(error)
            raise

    cases = [damaged(SAID, fuzz_rng) for _ in range(fuzz_cases)]
    assert_no_faults(judge(cases, look), least_refused=fuzz_cases // 3)


@pytest.mark.slow
def test_files_with_damaged_descriptions(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    state = torch.load(WEIGHTS, weights_only=True)
    flat = {k: v.contiguous() for k, v in state["model"].items()}
    flat |= {f"predictor.{k}": v.contiguous() for k, v in state["distiller"].items()}

    def look(case: tuple[int, str, bytes]) -> None:
        number, kind, text = case
        file = tmp_path / f"{number}.{kind}"
        if kind == "pt":
            torch.save({**state, "description": told(text)}, file)
        else:
            words = json.dumps({"description": told(text)})
            safetensors.torch.save_file(flat, file, metadata={"stillhouse": words})
        known_of(file)
        command(export, [f"checkpoint={file}", f"out={tmp_path / f'{number}.out'}"])

    kinds = ("pt", "safetensors")
    cases = [(k, fuzz_rng.choice(kinds), damaged(SAID, fuzz_rng)) for k in range(fuzz_cases)]
    assert_no_faults(judge(cases, look), least_refused=fuzz_cases // 3)


@pytest.mark.slow
def test_damaged_records_beside_weights(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    good = {name: (RUN / name).read_bytes() for name in RECORDS}

    def look(case: tuple[int, str, bytes]) -> None:
        number, name, content = case
        run, out = tmp_path / str(number), tmp_path / f"{number}.out"
        shutil.copytree(RUN, run)
        (run / name).write_bytes(content)
        try:
            command(export, [f"checkpoint={run / 'checkpoints' / 'best.pt'}", f"out={out}"])
        except InputError:
            assert not out.exists() and not out.with_name(f"{out.name}.md").exists()
            raise
        finally:
            shutil.rmtree(run)

    names = [fuzz_rng.choice(RECORDS) for _ in range(fuzz_cases)]
    cases = [(k, name, spoiled(name, good[name], fuzz_rng)) for k, name in enumerate(names)]
    assert_no_faults(judge(cases, look), least_refused=fuzz_cases // 5)


def test_a_whole_description_is_taken() -> None:
    assert parse(json.dumps(SAID), "x").predictor is not None
