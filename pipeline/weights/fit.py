"""Whether a state dict is that of a network, and why not."""

from collections.abc import Iterable, Mapping

from torch import Tensor

SHOWN = 3


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
    items = list(items)
    return ", ".join(items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")
