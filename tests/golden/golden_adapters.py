"""How golden cases are computed with our code; one file `adapters_*.py` for each group of methods.

An adapter returns {name: tensor} with the reference's names of outputs. 'backward' names the scalar whose gradients the
case holds; 'parameters' a dict from the reference's parameter keys to our leaves.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golden_cases import Case
from torch import Tensor

Outputs = dict[str, Any]
Adapter = Callable[[Case, dict[str, Tensor]], Outputs]
ADAPTERS: dict[str, Adapter] = {}


def adapter(*methods: str) -> Callable[[Adapter], Adapter]:
    """Files the function under the manifests' names of a method."""

    def file_under(function: Adapter) -> Adapter:
        ADAPTERS.update(dict.fromkeys(methods, function))
        return function

    return file_under


for _path in sorted(Path(__file__).parent.glob("adapters_*.py")):
    importlib.import_module(_path.stem)
