"""Whether a state dict is that of a network, and why not."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

SHOWN, LONG = 3, 100
COUNTER = "num_batches_tracked"  # of batch norms; files of torch 0.4 and older, and of converters, lack it


def is_counter(name: str) -> bool:
    """Whether `name` is that of a batch norm's counter."""
    return name.rpartition(".")[2] == COUNTER


def with_counters(state: Mapping[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """`state` with counters of batch norms as torch's strict loading takes them: where one is missing, that of
    `expected` (tensors, or shapes: then 0); one element for none.

    Counters that were cast with all the rest are whole numbers again; those that float16 could not hold are missing.
    """
    found = dict(state)
    modules = {name.rpartition(".")[0] for name in state}
    for name in filter(is_counter, expected):
        value = found.get(name)
        if value is not None and value.is_floating_point() and value.numel() == 1:
            value = value.round().to(torch.int64) if bool(torch.isfinite(value).all()) else None
        if value is None and name.rpartition(".")[0] not in modules:
            continue  # all of the layer is missing
        if value is None:
            own = expected[name]
            known = isinstance(own, Tensor) and own.device.type != "meta"
            value = own.detach().cpu().clone() if known else torch.zeros((), dtype=torch.int64)
        found[name] = value.reshape(()) if value.numel() == 1 else value
    return found


def difference(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str:
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
    told = [f"{len(items)} {kind} ({some(items)})" for kind, items in lists.items() if items]
    return f"weights of another architecture: {', '.join(told)}" if told else ""


def _class_counts(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], layers: set[str]) -> tuple[int, int] | None:
    """(classes found, classes wanted) when one linear layer differs, in its rows only."""
    if len(layers) != 1 or max(len(found) for found, _ in pairs) != 2:
        return None
    rows = {(found[0], wanted[0]) for found, wanted in pairs if found[1:] == wanted[1:]}
    return rows.pop() if len(rows) == 1 and all(found[1:] == wanted[1:] for found, wanted in pairs) else None


def some(items: Iterable[str]) -> str:
    """The first few of `items`, shortened."""
    items = list(items)
    told = [item if len(item) <= LONG else f"{item[:LONG]}..." for item in items[:SHOWN]]
    return ", ".join(told) + (", ..." if len(items) > SHOWN else "")
