"""Keys, shapes, parameter counts, logits and features of the published networks after a deterministic fill.

The numbers were made by running the official implementations. `--golden DIR` names another folder of the same format
(models.json with models_logits.npz beside it); a folder without models.json holds golden numbers of something else.
"""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS

OWN_FOLDER = Path(__file__).parents[1] / "golden"
SCOPES = ("cifar", "tiny")
ROUNDING = 10  # times the float32 error of the official run, as models.json advises


def golden_folder(config: pytest.Config) -> Path:
    folder = Path(config.getoption("golden", default=None) or OWN_FOLDER)
    return folder / "models" if (folder / "models").is_dir() else folder


@cache
def read_golden(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    with np.load(folder / "models_logits.npz") as logits:
        return json.loads((folder / "models.json").read_text()), dict(logits)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_entry" not in metafunc.fixturenames:
        return
    folder = golden_folder(metafunc.config)
    entries = read_golden(folder)[0]["entries"] if (folder / "models.json").is_file() else {}
    split = {entry: entry.split("/") for entry in entries}
    known = [entry for entry, (_, scope, net) in split.items() if scope in SCOPES and net in MODELS.names()]
    metafunc.parametrize("golden_entry", known)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    return read_golden(golden_folder(request.config))


def fill(network: nn.Module) -> None:
    """The fill of models.json: every tensor from the crc32 of its key."""
    for key, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        x = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(tuple(tensor.shape))
        if x.ndim >= 2:
            x = x / np.sqrt(np.prod(x.shape[1:]))
        elif key.endswith("running_mean"):
            x = 0.1 * x
        elif key.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif key.endswith("weight"):
            x = 1 + 0.1 * x
        elif key.endswith("bias"):
            x = 0.1 * x
        tensor.copy_(torch.from_numpy(x.astype(np.float32)))


@cache
def run(net: str, num_classes: int, side: int) -> tuple[list[list[Any]], int, list[int], ModelOutput]:
    """(keys with shapes in order, parameters, stage channels, output) of a filled network."""
    network = MODELS.get(net)(num_classes=num_classes).eval()
    fill(network)
    image_BCHW = np.random.RandomState(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        output = network(torch.from_numpy(image_BCHW), features=True)
    keys = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    return keys, sum(p.numel() for p in network.parameters()), network.stage_channels, output


def check_feature(name: str, tensor: torch.Tensor, wanted: dict[str, Any], tolerance: float) -> None:
    assert list(tensor.shape) == wanted["shape"], name
    values = tensor.numpy().astype(np.float64).reshape(-1)
    atol = tolerance * np.abs(values).max()
    positions = np.random.RandomState(1).choice(values.size, min(64, values.size), replace=False)
    np.testing.assert_allclose(values[positions], wanted["values"], rtol=0, atol=atol, err_msg=name)
    np.testing.assert_allclose(values.mean(), wanted["mean"], rtol=0, atol=atol, err_msg=name)
    np.testing.assert_allclose(values.std(), wanted["std"], rtol=0, atol=atol, err_msg=name)


def test_published_network(golden_entry: str, golden: tuple[dict[str, Any], dict[str, NDArray[np.float32]]]) -> None:
    facts, logits = golden
    entry = facts["entries"][golden_entry]
    origin = entry.get("same_as", golden_entry)
    reference = facts["entries"][origin]
    _, scope, net = golden_entry.split("/")
    keys, parameters, channels, output = run(net, facts["num_classes"][scope], reference["input_hw"])

    assert parameters == entry["n_params"]
    assert keys == reference["keys"]
    published = reference["interface"]["get_stage_channels"]
    assert not isinstance(published, list) or channels == published  # R2KD's raises AttributeError, told as a text

    error = reference["logits"]["fp32_vs_fp64_max_rel"]
    atol = ROUNDING * error * reference["logits"]["abs_max"]
    np.testing.assert_allclose(output.logits_BK.numpy(), logits[origin], rtol=0, atol=atol)

    ours = {"pooled_feat": output.pooled_BD}
    ours |= {f"feats.{i}": map_BCHW for i, map_BCHW in enumerate(output.features)}
    ours |= {f"preact_feats.{i}": map_BCHW for i, map_BCHW in enumerate(output.preact_features)}
    assert set(reference["features"]) <= set(ours)
    assert len([name for name in reference["features"] if name.startswith("feats.")]) == len(output.features)
    for name, wanted in reference["features"].items():
        check_feature(name, ours[name], wanted, ROUNDING * reference["logits"]["feat_fp32_vs_fp64_max_rel"])


def test_every_registered_network_is_in_the_golden_folder_of_the_project() -> None:
    entries = read_golden(OWN_FOLDER / "models")[0]["entries"]
    for origin in ("mdistiller", "repdistiller"):
        assert set(MODELS.names()) <= {name.split("/")[2] for name in entries if name.startswith(f"{origin}/cifar/")}
