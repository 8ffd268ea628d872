"""Weights of others and of our own as plain state dicts. No pickle code of a file ever runs.

Besides what torch allows under weights_only, two things that published files hold beside their weights are read and
dropped: the options of a run (argparse.Namespace, in RepDistiller's <model>_last.pth) and numbers of NumPy (best_acc).

Layouts: {"model": ...} (RepDistiller, mdistiller, our checkpoints), {"state_dict": ...}, bare state dicts, safetensors,
`module.` prefixes, whole distillers of mdistiller (keys module.student.*, module.teacher.*), run folders of ours.
"""

import argparse
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.contracts import InputError

Part = Literal["student", "teacher"]
Expected = nn.Module | Mapping[str, Tensor] | Mapping[str, Sequence[int]]

RUN_FILE = "student.safetensors"
CONTAINERS = ("model", "state_dict")
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and DDP; torch.compile
PARTS = ("student.", "teacher.")
PREDICTOR = "predictor."  # in our student files: what a method adds to inference
ZIP_MAGIC = b"PK\x03\x04"
SHOWN = 3
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
BYTE_ORDERS = ("<", ">", "|", "=")


class _NumberType:
    """Stands for numpy.dtype: the real one changes types that NumPy shares, when a file tells it to."""

    def __init__(self, kind: str, *_: bool) -> None:
        if kind not in NUMBERS:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype[{kind!r}]")
        self.kind, self.order = kind, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in BYTE_ORDERS:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype with byte order {state[1]!r}")
        self.order = state[1]


def _number(of: _NumberType, content: bytes) -> float:
    """Stands for NumPy's scalar."""
    value: float = np.frombuffer(content, dtype=of.order + of.kind, count=1)[0].item()
    return value


# Names are those in the file; NumPy 2 renamed the module of `scalar`.
ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def load_into(model: nn.Module, path: str | Path, *, part: Part = "student") -> None:
    """Fill `model` with the weights in `path`. Raises InputError as `load_weights` does; then `model` is untouched."""
    model.load_state_dict(load_weights(path, expected=model, part=part))


def load_weights(path: str | Path, *, expected: Expected, part: Part = "student") -> dict[str, Tensor]:
    """The state dict in `path`, on the CPU, with exactly the keys and shapes of `expected` (a network, or its state).

    path: a file, or a run folder (its student.safetensors). part: which network of a distiller that holds both; a file
    of one network is that network. Raises InputError, one line: missing, damaged, in need of pickle code, no weights
    inside, another number of classes, another architecture.
    """
    state = read_state(path, part=part)
    tensors = expected.state_dict() if isinstance(expected, nn.Module) else expected
    shapes = {key: tuple(value.shape if isinstance(value, Tensor) else value) for key, value in tensors.items()}
    difference = _difference(state, shapes)
    if difference:
        raise _refuse(path, difference)
    return state


def read_state(path: str | Path, *, part: Part = "student") -> dict[str, Tensor]:
    """The state dict in `path`, whatever its architecture, without wrappers' prefixes. Raises InputError."""
    file = _file_of(path)
    state = _without(WRAPPERS, _state_dict(_read(file), file))
    state = {key: value for key, value in state.items() if not key.startswith(PREDICTOR)}
    held = [prefix for prefix in PARTS if any(key.startswith(prefix) for key in state)]
    if held:
        # A teacher that mdistiller trained by itself is the student of a distiller without teacher.
        prefix = f"{part}." if len(held) > 1 else held[0]
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return _without(WRAPPERS, state)


def read_predictor(path: str | Path) -> dict[str, Tensor]:
    """What a method keeps for inference (SimKD's projector and reused classifier) in `path`; {} where there is none."""
    file = _file_of(path)
    raw = _read(file)
    if isinstance(raw, Mapping) and isinstance(raw.get("distiller"), Mapping):  # a checkpoint of ours
        return {str(key): value for key, value in raw["distiller"].items() if isinstance(value, Tensor)}
    state = _state_dict(raw, file)
    return {key.removeprefix(PREDICTOR): value for key, value in state.items() if key.startswith(PREDICTOR)}


def _file_of(path: str | Path) -> Path:
    """The file itself, or a run folder's."""
    file = Path(path).expanduser()
    if not file.is_dir():
        return file
    if not (file / RUN_FILE).is_file():
        raise _refuse(path, f"the folder holds no {RUN_FILE}; name a checkpoint file")
    return file / RUN_FILE


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over sorted keys, dtypes, shapes and values; device and memory format do not matter."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}\t{value.dtype}\t{tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refuse(path: str | Path, reason: str) -> InputError:
    # Keys come from the file: one with a line break in it must not break the promise of one line.
    return InputError(" ".join(f"{path}: {reason}".split()))


def _read(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise _refuse(file, f"cannot be read ({error.strerror})") from None
    # safetensors: a length of eight bytes, then JSON
    if file.suffix == ".safetensors" or (head[8:] == b"{" and not head.startswith(ZIP_MAGIC)):
        return _read_safetensors(file)
    return _read_torch(file, zipped=head.startswith(ZIP_MAGIC))


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file, device="cpu")
    except Exception as error:
        raise _refuse(file, f"damaged, cut short or not a safetensors file ({error})") from None


def _read_torch(file: Path, *, zipped: bool) -> Any:
    # A parser of foreign bytes raises almost anything (KeyError on a text file, OSError on half a zip).
    try:
        # torch.load does not look at the checksums that torch.save wrote: a flipped bit would become a weight.
        damaged = zipfile.ZipFile(file).testzip() if zipped else None
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED):
            warnings.simplefilter("ignore")
            raw = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refuse(file, _why(error)) from None
    if damaged:
        raise _refuse(file, f"damaged (wrong checksum in {damaged})")
    return raw


def _why(error: Exception) -> str:
    text = str(error)
    wanted = re.search(r"GLOBAL (\S+)", text)
    name = wanted[1] if wanted else "TorchScript" if "TorchScript" in text else None
    if name:
        return f"needs pickle code ({name}), which could do anything, so it is refused; save the state dict alone"
    if isinstance(error, pickle.UnpicklingError):
        return "not a checkpoint, damaged, or in need of pickle code, which is refused; save the state dict alone"
    return "damaged, cut short or not a checkpoint"


def _state_dict(raw: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(raw, Mapping):
        raise _refuse(file, f"holds no weights but a {type(raw).__name__}")
    inner = next((raw[key] for key in CONTAINERS if isinstance(raw.get(key), Mapping)), raw)
    if not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise _refuse(file, f"holds no state dict (top-level keys: {_some(map(str, raw))})")
    return {str(key): value.detach() for key, value in inner.items()}


def _without(prefixes: tuple[str, ...], state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in prefixes:
        while all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _difference(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Why `state` does not fit, '' when it does."""
    missing = [key for key in shapes if key not in state]
    unexpected = [key for key in state if key not in shapes]
    found = {key: tuple(state[key].shape) for key in shapes if key in state}
    wrong = [key for key in found if found[key] != shapes[key]]
    if wrong and not missing and not unexpected:
        counts = _class_counts([(found[key], shapes[key]) for key in wrong], {key.rpartition(".")[0] for key in wrong})
        if counts:
            return f"checkpoint has {counts[0]} classes, the data set {counts[1]}"
    lists = {
        "missing keys": missing,
        "unexpected keys": unexpected,
        "other shapes": [f"{key} {list(found[key])} instead of {list(shapes[key])}" for key in wrong],
    }
    told = [f"{len(items)} {kind} ({_some(items)})" for kind, items in lists.items() if items]
    return f"weights of another architecture: {', '.join(told)}" if told else ""


def _class_counts(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], layers: set[str]) -> tuple[int, int] | None:
    """(classes found, classes wanted) when one linear layer differs, in its rows only."""
    if len(layers) != 1 or max(len(found) for found, _ in pairs) != 2:
        return None
    rows = {(found[0], wanted[0]) for found, wanted in pairs if found[1:] == wanted[1:]}
    return rows.pop() if len(rows) == 1 and all(found[1:] == wanted[1:] for found, wanted in pairs) else None


def _some(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")
