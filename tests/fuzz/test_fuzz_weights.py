"""Weight files made, bent and cut at random: each gives the weights that were meant, or one line."""

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fuzzing import assert_no_faults, cut, flipped, judge
from torch import Tensor, nn

from pipeline.contracts import InputError
from pipeline.run_folder.checkpoint_file import seal
from pipeline.run_folder.folder import RunDir
from pipeline.weights import holds_predictor, load_weights, read_origin, read_predictor, read_state, sealed

State = dict[str, Tensor]
SECONDS = 20
MEMORY_MB = 3000


class Net(nn.Module):
    """A convolution, a norm with its counter, a classifier."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)


GOOD = Net(1).state_dict()
OTHER = Net(2).state_dict()


@dataclass
class Case:
    """A file: how it was made, its ending, its bytes; sure: whatever is read of it has GOOD's values."""

    told: str
    suffix: str
    content: bytes
    sure: bool = False

    def __repr__(self) -> str:
        return f"{self.told} {self.suffix} {self.content[:4000]!r}"


def reader(folder: Path) -> Callable[[Case], None]:
    """Every reader of weights on one case."""
    network = Net()

    def run(case: Case) -> None:
        path = folder / f"f{case.suffix}"
        path.write_bytes(case.content)
        for read in (read_origin, read_predictor, holds_predictor, read_state):
            try:
                read(path)
            except InputError as error:
                one_line(error)
        try:
            found = load_weights(path, expected=network)
        except InputError as error:
            raise InputError(one_line(error)) from None
        assert found.keys() == GOOD.keys() and all(found[key].shape == GOOD[key].shape for key in GOOD)
        assert all(bool(torch.isfinite(value).all()) for value in found.values())
        network.load_state_dict(found)
        if case.sure:
            assert all(torch.equal(found[key], GOOD[key]) for key in GOOD), "other weights than were written"

    return run


def one_line(error: InputError) -> str:
    text = str(error)
    assert "\n" not in text and text.isprintable() and len(text) < 1000, text
    return text


def saved(content: Any, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def verdicts(cases: list[Case], folder: Path) -> None:
    assert_no_faults(judge(cases, reader(folder), seconds=SECONDS, memory_mb=MEMORY_MB), len(cases) // 5)


# ---- made ------------------------------------------------------------------------------------------------------------

NAMES = (
    *("model", "state_dict", "net", "network", "state", "params", "module", "student", "teacher", "ema", "model_ema"),
    *(
        "state_dict_ema",
        "predictor",
        "distiller",
        "updater",
        "optimizer",
        "a.b",
        "",
        ".",
        "x" * 3000,
        "ä",
        "line\nbreak",
    ),
    *("_orig_mod", "total_ops", "n_averaged", "\udc80", "\x1b[31m", 0, -1, None, True, 1.5, ("a", "b")),
)
PREFIXES = ("", "module.", "model.", "student.", "teacher.", "predictor.", "ema.", "a.b.c.", ".", "_orig_mod.", "\n")


def odd(rng: random.Random) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rng.choice(
            (
                lambda: torch.ones(3, dtype=rng.choice((torch.complex64, torch.int64, torch.bool, torch.uint8))),
                lambda: torch.full((3,), rng.choice((float("nan"), float("inf"), 1e300)), dtype=torch.float64),
                lambda: torch.ones(3).to_sparse(),
                lambda: torch.ones(3, device="meta"),
                lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
                lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
                lambda: torch.ones(1).expand(10**5, 10**5),
                lambda: torch.ones(()),
                lambda: torch.ones(0, 10**6),
                lambda: torch.ones(3).half(),
                lambda: nn.Parameter(torch.ones(3)),
                lambda: "text",
                lambda: None,
                lambda: b"bytes",
                lambda: torch.Size([3]),
                lambda: torch.float32,
            )
        )()


def state_of(rng: random.Random) -> dict[Any, Any]:
    """GOOD or OTHER under prefixes, with entries taken out, put in, or replaced."""
    state: dict[Any, Any] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        prefix = "".join(rng.choices(PREFIXES, k=rng.choice((0, 1, 1, 2))))
        state |= {prefix + key: value for key, value in rng.choice((GOOD, OTHER)).items()}
    for _ in range(rng.choice((0, 0, 1, 2))):
        key = rng.choice(list(state) or ["x"])
        change = rng.randrange(4)
        if change == 0:
            state.pop(key, None)
        elif change == 1:
            state[key] = odd(rng)
        elif change == 2:
            state[rng.choice(NAMES)] = odd(rng)
        else:
            state = {k: v for k, v in state.items() if "num_batches" not in str(k)}
    return state


def content_of(rng: random.Random, depth: int = 0) -> Any:
    """Containers in containers."""
    if depth > 3 or rng.random() < 0.4:
        return state_of(rng) if rng.random() < 0.8 else odd(rng)
    if rng.random() < 0.1:
        return [content_of(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(NAMES): content_of(rng, depth + 1) for _ in range(rng.choice((1, 1, 2, 3)))}


def made(rng: random.Random) -> Case:
    content = content_of(rng)
    kind = rng.randrange(4)
    try:
        if kind == 0:
            flat = {
                str(k): v.contiguous() for k, v in state_of(rng).items() if isinstance(v, Tensor) and v.numel() < 1e6
            }
            return Case("made", ".safetensors", safetensors.torch.save(flat, metadata={"stillhouse": said(rng)}))
        return Case("made", ".pth", saved(content, zipped=kind != 1))
    except (ValueError, RuntimeError, TypeError, NotImplementedError, KeyError, AttributeError, UnicodeEncodeError):
        return Case("made, plainly", ".pth", saved(state_of(rng) if kind else GOOD))
    except Exception as error:  # safetensors has an error of its own
        assert "afetensor" in type(error).__name__
        return Case("made, plainly", ".pth", saved(GOOD))


def said(rng: random.Random) -> str:
    return rng.choice(("{}", "[", "3", "[" * 9999, '{"sha256": 3}', '{"sha256": "x"}', '{"description": {}}', "\0"))


@pytest.mark.slow
def test_made_files(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    verdicts([made(fuzz_rng) for _ in range(fuzz_cases)], tmp_path)


# ---- bent ------------------------------------------------------------------------------------------------------------


def whole(folder: Path) -> dict[str, tuple[str, bytes, bool]]:
    """Good files: ending, bytes, whether every change of a bit must be noticed."""
    RunDir(folder).write_student(GOOD, {"seed": 1, "description": {"mean": [0.5, 0.5, 0.5]}})
    ours = {"model": GOOD, "distiller": {}, "description": {"format": 1}, "updater": {"ema": {}}}
    return {
        "student.safetensors": (".safetensors", (folder / "student.safetensors").read_bytes(), True),
        "checkpoint": (".pt", seal(ours), True),
        "zip": (".pth", saved({"state_dict": GOOD, "epoch": 3}), True),
        "legacy": (".pth", saved({"model": GOOD}, zipped=False), False),
        "safetensors": (".safetensors", safetensors.torch.save(GOOD), False),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("student.safetensors", "checkpoint", "zip", "legacy", "safetensors"))
def test_flips_and_cuts(kind: str, fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    suffix, content, sure = whole(tmp_path)[kind]
    cases = [Case(f"cut {kind}", suffix, cut(content, fuzz_rng)) for _ in range(fuzz_cases // 5)]
    cases += [
        Case(f"flipped {kind}", suffix, flipped(content, fuzz_rng, fuzz_rng.choice((1, 1, 1, 2, 8))), sure)
        for _ in range(fuzz_cases)
    ]
    verdicts(cases, tmp_path)


def bent(content: bytes, rng: random.Random) -> bytes:
    """Bytes replaced, removed, doubled."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, size = rng.randrange(len(changed) or 1), rng.choice((1, 1, 1, 4, 30))
        piece = changed[place : place + size]
        changed[place : place + size] = rng.choice((rng.randbytes(len(piece)), b"", piece * 2, piece * 50))
    return bytes(changed)


@pytest.mark.slow
def test_bent_pickles_with_right_checksums(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    cases = []
    with zipfile.ZipFile(io.BytesIO(saved({"model": GOOD, "numbers": [1, 2.5, 2**70, b"x", {3}]}))) as source:
        for _ in range(fuzz_cases):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as target:
                for entry in source.infolist():
                    content = source.read(entry)
                    change = entry.filename.endswith("data.pkl") or fuzz_rng.random() < 0.05
                    target.writestr(entry.filename, bent(content, fuzz_rng) if change and content else content)
            cases.append(Case("bent pickle", ".pth", buffer.getvalue()))
    verdicts(cases, tmp_path)


@pytest.mark.slow
def test_bent_headers(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    with_sum = safetensors.torch.save(GOOD, metadata=sealed({"seed": 1}, GOOD))
    cases = []
    for _ in range(fuzz_cases):
        whole_file = with_sum if fuzz_rng.random() < 0.3 else safetensors.torch.save(GOOD)
        size = struct.unpack("<Q", whole_file[:8])[0]
        head = json.loads(whole_file[8 : 8 + size])
        entry = head[fuzz_rng.choice([key for key in head if key != "__metadata__"])]
        key = fuzz_rng.choice(("dtype", "shape", "data_offsets"))
        entry[key] = fuzz_rng.choice(
            ("F64", "F8_E4M3", "BOOL", "I64", "C64", "F4", [], [0], [2**63], [-1], [1, 2, 3], [0, 2**60], None, {}, 0)
        )
        text = json.dumps(head).encode()
        text = bent(text, fuzz_rng) if fuzz_rng.random() < 0.5 else text
        cases.append(Case("bent header", ".safetensors", struct.pack("<Q", len(text)) + text + whole_file[8 + size :]))
    verdicts(cases, tmp_path)


def test_a_few_of_each(tmp_path: Path) -> None:
    rng = random.Random(5)
    cases = [made(rng) for _ in range(25)]
    for kind, (suffix, content, sure) in whole(tmp_path).items():
        cases += [Case(f"flipped {kind}", suffix, flipped(content, rng), sure) for _ in range(5)]
    verdicts(cases, tmp_path)
