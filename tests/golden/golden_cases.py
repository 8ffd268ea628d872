"""Golden folders: numbers made by running the official implementations, in either of two manifest formats.

mdistiller's manifest lists cases of one method each; RepDistiller's lists files of cases. Inputs are stored or made by
the crc32 rule that the manifest tells.
"""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {"f32": torch.float32, "f64": torch.float64}


@dataclass(frozen=True)
class Case:
    """One call of a reference: hyper-parameters, inputs by name, expected arrays by '<out or grad>/<name>'."""

    folder: Path
    file: str
    name: str
    method: str
    hyper: dict[str, Any]
    input_specs: dict[str, dict[str, Any]]
    arrays: Any = field(repr=False)

    def __str__(self) -> str:
        return f"{self.folder.name}/{self.file}/{self.name}"

    def inputs(self, precision: str) -> dict[str, Tensor]:
        """Leaves that require a gradient where they are real numbers."""
        found = {}
        for name, spec in self.input_specs.items():
            key = f"{self.name}/in/{name}"
            array = self.arrays[key] if key in self.arrays else made(name, spec)
            tensor = torch.from_numpy(np.array(array))
            if tensor.is_floating_point():
                tensor = tensor.to(DTYPES[precision]).requires_grad_()
            found[name] = tensor
        return found

    def expected(self, precision: str) -> dict[str, np.ndarray]:
        """What the reference gave, by the rest of its key: 'loss', 'grad/logit_s' ..."""
        prefix = f"{self.name}/{precision}/"
        return {k.removeprefix(prefix): self.arrays[k] for k in self.arrays if k.startswith(prefix)}


def made(name: str, spec: dict[str, Any]) -> np.ndarray:
    """An input that is not stored, by the crc32 rule."""
    kind, shape, *scale = spec["recipe"]
    state = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    if kind == "int":
        return state.randint(0, scale[0], shape)
    values = state.standard_normal(shape) * (scale[0] if scale else 1.0)
    return (np.maximum(values, 0) if kind == "relu" else values).astype(np.float32)


def cases_in(folder: Path) -> list[Case]:
    """All cases of a folder with a manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    arrays: dict[str, dict[str, np.ndarray]] = {}

    def load(file: str) -> dict[str, np.ndarray]:
        if file not in arrays:
            with np.load(folder / file, allow_pickle=False) as stored:
                arrays[file] = {k: stored[k] for k in stored.files}
        return arrays[file]

    if "cases" in manifest:
        return [
            Case(folder, c["file"], c["case"], c["method"], c["hyper"], c["inputs"], load(c["file"]))
            for c in manifest["cases"]
        ]
    return [
        Case(folder, file, name, file.removesuffix(".npz"), c["hyper"], c["inputs"], load(file))
        for file, content in manifest["files"].items()
        for name, c in content["cases"].items()
    ]
