"""Weights of a file as a plain state dict."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.weights.choice import Part, Wish, choose, entries_of
from pipeline.weights.files import file_of, read, refuse
from pipeline.weights.fit import difference, with_counters
from pipeline.weights.sets import PREDICTOR, without_wrappers
from pipeline.weights.values import infinite, oddity, plain, unfit

Expected = nn.Module | Mapping[str, Tensor] | Mapping[str, Sequence[int]]
STUDENT = "student.weights"
HEAD = f"{PREDICTOR}."


def load_into(
    model: nn.Module, path: str | Path, *, part: Part = "student", weights: str | None = None, key: str = STUDENT
) -> None:
    """Fill `model` with the weights in `path`. Raises InputError as `load_weights` does; then `model` is untouched."""
    model.load_state_dict(load_weights(path, expected=model, part=part, weights=weights, key=key))


def load_weights(
    path: str | Path,
    *,
    expected: Expected,
    part: Part = "student",
    weights: str | None = None,
    key: str = STUDENT,
) -> dict[str, Tensor]:
    """The state dict in `path`, on the CPU, with exactly the keys and shapes of `expected` (a network, or its state).

    path: a file, or a run folder (its student.safetensors). part: which network of a distiller that holds both; a file
    of one network is that network. weights: which set of a file that holds several, by its name in the file, or `ema`
    or `plain`; by default the averaged ones. The leader prints which are taken of several. key: what to call it in
    messages. Counters of batch norms that the file lacks are those of `expected`, as torch does it.

    Raises InputError, one line: missing, damaged, in need of pickle code, no weights inside, several and no reason for
    one of them, another number of classes, another architecture, values that the network cannot hold.
    """
    file = file_of(path)
    tensors = expected.state_dict() if isinstance(expected, nn.Module) else expected
    shapes = {name: tuple(value.shape if isinstance(value, Tensor) else value) for name, value in tensors.items()}
    state, note = choose(file, Wish(part, weights, key), [shapes])
    state = with_counters(_plain(path, state), tensors)
    reason = difference(state, shapes) or unfit(state, tensors)
    if reason:
        raise refuse(path, reason)
    if note and os.environ.get("RANK", "0") == "0":
        print(note, flush=True)
    return {name: state[name] for name in shapes}


def read_state(
    path: str | Path,
    *,
    part: Part = "student",
    weights: str | None = None,
    key: str = STUDENT,
    forms: Sequence[Collection[str]] = (),
) -> dict[str, Tensor]:
    """The state dict in `path`, whatever its architecture, without wrappers' prefixes. Raises InputError.

    forms: names of the state of each form of a network, by which its weights are found in the file, whatever they lie
    in. part, weights, key: as for load_weights.
    """
    return _plain(path, choose(file_of(path), Wish(part, weights, key), forms).state)


def read_predictor(path: str | Path) -> dict[str, Tensor]:
    """What a method keeps for inference (SimKD's projector and reused classifier) in `path`; {} where there is none.
    Raises InputError."""
    raw = read(file_of(path))
    of_ours = raw.get("distiller") if isinstance(raw, Mapping) else None
    if isinstance(of_ours, Mapping):  # a checkpoint of ours
        held = {str(name): value for name, value in of_ours.items() if isinstance(value, Tensor)}
    else:
        held = _added(path, raw)
    state = _plain(path, held)
    if bad := infinite(state):
        raise refuse(path, f"{HEAD}{bad}")
    return state


def holds_predictor(path: str | Path) -> bool:
    """Whether `path` holds tensors under the name that student files give to what a method predicts with."""
    return bool(_added(path, read(file_of(path))))


def _added(path: str | Path, raw: Any) -> dict[str, Tensor]:
    states = [without_wrappers(one.state) for one in entries_of(path, raw)]
    added = [{k.removeprefix(HEAD): v for k, v in state.items() if k.startswith(HEAD)} for state in states]
    return next(filter(None, added), {})


def _plain(path: str | Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, value in state.items():
        if odd := oddity(value):
            raise refuse(path, f"{name} is no plain tensor ({odd})")
    return {name: plain(value) for name, value in state.items()}
