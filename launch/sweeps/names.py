"""Names of runs below the folder of their sweep."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from launch.sweeps.cells import Cell
from pipeline.builders.run import default_name
from pipeline.config import TrainConfig

LONGEST = 100  # characters that a name adds to the default one


def short(value: Any) -> str:
    """Eight digits that tell `value` from others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def name_cells(cells: Sequence[Cell], configs: Sequence[TrainConfig]) -> list[str]:
    """Of each cell, below the sweep's folder and without the seed; no two have one. Values of plain axes and arguments
    of the method are in it always, so that a sweep that grows keeps its names; other keys where they are needed."""
    told = [set(cell.named) for cell in cells]
    names = [_name(*row) for row in zip(cells, configs, told, strict=True)]
    for same in _groups(names):
        differ = {k for i in same for k in cells[i].keys if len({_value(cells[j].keys.get(k)) for j in same}) > 1}
        for i in same:
            told[i] |= differ
            names[i] = _name(cells[i], configs[i], told[i])
    for same in _groups(names):
        for i in same:
            names[i] = f"{names[i]}-{short(cells[i].keys)}"
    return names


def _groups(names: Sequence[str]) -> list[list[int]]:
    """Positions of equal names, where there are several."""
    by_name: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        by_name.setdefault(name, []).append(i)
    return [same for same in by_name.values() if len(same) > 1]


def _name(cell: Cell, config: TrainConfig, told: set[str]) -> str:
    dataset, method, pair, _ = default_name(config).split("/")
    more = "".join(f"-{k.rpartition('.')[2]}{_value(cell.keys[k])}" for k in sorted(told) if k in cell.keys)
    if len(more) > LONGEST:
        more = f"-{short(more)}"
    return f"{dataset}/{method}{more}/{pair}"


def _value(value: Any) -> str:
    """For names; what shells would interpret stays and is refused."""
    if isinstance(value, list):
        return "_".join(map(_value, value))
    return re.sub("[/:]", "-", value) if isinstance(value, str) else json.dumps(value)
