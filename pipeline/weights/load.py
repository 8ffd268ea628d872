"""Weights of a file as a plain state dict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from pipeline.weights.files import file_of, read, refuse
from pipeline.weights.fit import difference, some

Part = Literal["student", "teacher"]
Expected = nn.Module | Mapping[str, Tensor] | Mapping[str, Sequence[int]]

CONTAINERS = ("model", "state_dict")
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and DDP; torch.compile
PARTS = ("student.", "teacher.")
PREDICTOR = "predictor."  # in our student files: what a method adds to inference


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
    reason = difference(state, shapes)
    if reason:
        raise refuse(path, reason)
    return state


def read_state(path: str | Path, *, part: Part = "student") -> dict[str, Tensor]:
    """The state dict in `path`, whatever its architecture, without wrappers' prefixes. Raises InputError."""
    file = file_of(path)
    state = _without(WRAPPERS, _state_dict(read(file), file))
    state = {key: value for key, value in state.items() if not key.startswith(PREDICTOR)}
    held = [prefix for prefix in PARTS if any(key.startswith(prefix) for key in state)]
    if held:
        # A teacher that mdistiller trained by itself is the student of a distiller without teacher.
        prefix = f"{part}." if len(held) > 1 else held[0]
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return _without(WRAPPERS, state)


def read_predictor(path: str | Path) -> dict[str, Tensor]:
    """What a method keeps for inference (SimKD's projector and reused classifier) in `path`; {} where there is none."""
    file = file_of(path)
    raw = read(file)
    if isinstance(raw, Mapping) and isinstance(raw.get("distiller"), Mapping):  # a checkpoint of ours
        return {str(key): value for key, value in raw["distiller"].items() if isinstance(value, Tensor)}
    state = _state_dict(raw, file)
    return {key.removeprefix(PREDICTOR): value for key, value in state.items() if key.startswith(PREDICTOR)}


def _state_dict(raw: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(raw, Mapping):
        raise refuse(file, f"holds no weights but a {type(raw).__name__}")
    inner = next((raw[key] for key in CONTAINERS if isinstance(raw.get(key), Mapping)), raw)
    if not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise refuse(file, f"holds no state dict (top-level keys: {some(map(str, raw))})")
    return {str(key): value.detach() for key, value in inner.items()}


def _without(prefixes: tuple[str, ...], state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in prefixes:
        while all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
