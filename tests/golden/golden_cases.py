"""Golden folders: numbers made by running the official implementations, in either of two manifest formats.

mdistiller's manifest lists cases of one method each; RepDistiller's lists files of cases. Inputs are stored or made by
the crc32 rule that the manifest tells.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).resolve().parent / "data"
DTYPES = {"f32": torch.float32, "f64": torch.float64}


@dataclass(frozen=True)
class Case:
    """One call of a reference: hyper-parameters, inputs by name, expected arrays by '<out or grad>/<name>'.

    epoch: the reference's epoch number where its loss depends on it, else None. parameter_specs: shapes of the
    reference's own modules by its key; strides: step of the samples kept of a large gradient.
    """

    folder: Path
    file: str
    name: str
    method: str
    hyper: dict[str, Any]
    input_specs: dict[str, dict[str, Any]]
    arrays: Any = field(repr=False)
    parameter_specs: dict[str, Any] = field(default_factory=dict)
    one_plus: frozenset[str] = frozenset()
    epoch: int | None = None
    strides: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.folder.name}/{self.file}/{self.name}"

    def inputs(self, precision: str) -> dict[str, Tensor]:
        """Leaves that require a gradient where they are real numbers."""
        found = {}
        for name, spec in self.input_specs.items():
            found[name] = self._leaf(f"{self.name}/in/{name}", lambda n=name, s=spec: made(n, s), precision)
        return found

    def parameters(self, precision: str) -> dict[str, Tensor]:
        """The reference's own parameters and BN statistics by its keys, by the rule (.05 times a normal)."""
        found = {}
        for key, spec in self.parameter_specs.items():
            stored = f"{self.name}/{'par' if isinstance(spec, list) else 'param'}/{key}"
            found[key] = self._leaf(stored, lambda k=key, s=spec: self._made_parameter(k, s), precision)
        return found

    def _made_parameter(self, key: str, spec: Any) -> np.ndarray:
        if not isinstance(spec, list):
            return made(key, spec)
        values = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(spec) * 0.05
        if key.endswith("running_var"):
            values = 1 + np.abs(values)
        return (values + (key in self.one_plus)).astype(np.float32)

    def _leaf(self, key: str, make: Callable[[], np.ndarray], precision: str) -> Tensor:
        tensor = torch.from_numpy(np.array(self.arrays[key] if key in self.arrays else make()))
        return tensor.to(DTYPES[precision]).requires_grad_() if tensor.is_floating_point() else tensor

    def expected(self, precision: str) -> dict[str, np.ndarray]:
        """What the reference gave, by the rest of its key: 'loss', 'grad/logit_s' ..."""
        prefix = f"{self.name}/{precision}/"
        return {k.removeprefix(prefix): self.arrays[k] for k in self.arrays if k.startswith(prefix)}


def made(name: str, spec: dict[str, Any]) -> np.ndarray:
    """An input or parameter that is not stored, by the crc32 rule of either manifest."""
    if "gen" in spec:
        rule = spec["gen"]
        kind, shape, scale = "relu" if rule.get("relu") else "normal", spec["shape"], [rule["scale"]]
        name = rule["key"]
    else:
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
            Case(
                folder,
                c["file"],
                c["case"],
                c["method"],
                c["hyper"],
                c["inputs"],
                load(c["file"]),
                parameter_specs=c.get("params", {}),
                epoch=c.get("epoch"),
                strides={k: g["stride"] for k, g in c.get("grads", {}).items() if "stride" in g},
            )
            for c in manifest["cases"]
        ]
    return [
        Case(
            folder,
            file,
            name,
            file.removesuffix(".npz"),
            c["hyper"],
            c["inputs"],
            load(file),
            parameter_specs=c.get("params", {}),
            one_plus=frozenset(c.get("bn_weight_is_one_plus", ())),
        )
        for file, content in manifest["files"].items()
        for name, c in content["cases"].items()
    ]


def golden_folders(config: pytest.Config, marker: str) -> list[Path]:
    """Folders whose golden file `marker` is to be tested."""
    chosen: Path | None = config.getoption("--golden")
    folders = sorted(p for p in GOLDEN.iterdir() if p.is_dir()) if chosen is None else [chosen]
    found = [f for f in folders if (f / marker).is_file()]
    if chosen is not None and not any((chosen / name).is_file() for name in ("manifest.json", "models.json")):
        raise pytest.UsageError(f"--golden {chosen}: no manifest.json or models.json there")
    return found
