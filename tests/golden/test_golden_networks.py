"""Keys, shapes, parameter counts, logits and features of the published networks after a deterministic fill.

The numbers were made by running the official implementations. `--golden DIR` names another folder of the same format
(models.json with models_logits.npz beside it); a folder without models.json holds golden numbers of something else.
An entry that the registry does not know fails.
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
from pipeline.models.blocks import deploy
from pipeline.models.build import build, options_of, resolve

OWN_FOLDER = Path(__file__).parent
ROUNDING = 10  # times the float32 error of the official run, as models.json advises
CLASSES = {"cifar": "cifar", "cifar-notindict": "cifar", "tiny": "tiny", "imagenet": "imagenet"}
NETWORKS = {"cifar": "cifar", "cifar-notindict": "cifar", "imagenet": "imagenet"}
MISNAMED = {  # what these files of the official repositories call by another network's name
    "r2kd/imagenet/MobileNetV2": "mobilenetv1",
    "mlld/imagenet/MobileNetV2": "mobilenetv1",
    "kdrefine/cifar/resnet50": "resnet50_6n2",
}
RECONSTRUCTED = {  # cannot run in its repository (a layer is missing); ours has the layer, and its keys
    "simkd/imagenet/ShuffleV2_Imagenet": ["conv5.0.weight", "conv5.1.weight", "conv5.1.bias"],
}
OPTIONS: dict[str, dict[str, Any]] = {"simkd/imagenet": {"stem_feature": "after_pool"}}
BLOCKS = {"base": "convbn", "AMBB": "ambb"}
Golden = tuple[dict[str, Any], dict[str, NDArray[np.float32]]]


def golden_folder(config: pytest.Config) -> Path:
    folder = Path(config.getoption("golden", default=None) or OWN_FOLDER)
    return folder / "models" if (folder / "models").is_dir() else folder


@cache
def read_golden(folder: Path) -> Golden:
    with np.load(folder / "models_logits.npz") as logits:
        return json.loads((folder / "models.json").read_text()), dict(logits)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_entry" in metafunc.fixturenames:
        folder = golden_folder(metafunc.config)
        metafunc.parametrize(
            "golden_entry", list(read_golden(folder)[0]["entries"]) if (folder / "models.json").is_file() else []
        )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
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


def recipe_of(entry: str) -> tuple[str, tuple[tuple[str, Any], ...], bool]:
    """(our name, options, whether to build the deployed form) of an entry REPOSITORY/SCOPE/NET[@BLOCK[-deploy]]."""
    repository, scope, net = entry.split("/")
    net, _, form = net.partition("@")
    block, _, deployed = form.partition("-")
    # R2KD trains the CIFAR networks on Tiny-ImageNet, mdistiller has a MobileNetV2 of its own.
    networks = NETWORKS.get(scope) or ("cifar" if repository == "r2kd" else "tiny")
    name = resolve(MISNAMED.get(entry, net), networks)
    options = {k: v for k, v in OPTIONS.get(f"{repository}/{scope}", {}).items() if k in options_of(name)}
    if block:
        options["block"] = BLOCKS[block]
    return name, tuple(options.items()), bool(deployed)


@cache
def run(
    name: str, options: tuple[tuple[str, Any], ...], deployed: bool, num_classes: int, side: int
) -> tuple[dict[str, list[int]], int, list[str], list[int], ModelOutput]:
    """(shapes by key in order, parameters, names of the BN before ReLU, stage channels, output) of a filled network."""
    network = build(name, num_classes=num_classes, **dict(options)).eval()
    if deployed:
        deploy(network)
    fill(network)
    image_BCHW = np.random.RandomState(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        output = network(torch.from_numpy(image_BCHW), features=True)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    names = {id(module): key for key, module in network.named_modules()}
    norms = [names[id(module)] for module in network.bn_before_relu()]
    return shapes, sum(p.numel() for p in network.parameters()), norms, network.stage_channels, output


def check_feature(name: str, tensor: torch.Tensor, wanted: dict[str, Any], tolerance: float) -> None:
    assert list(tensor.shape) == wanted["shape"][: tensor.ndim], name  # one published pooled vector is [B, D, 1, 1]
    assert tensor.numel() == np.prod(wanted["shape"]), name
    values = tensor.numpy().astype(np.float64).reshape(-1)
    atol = tolerance * np.abs(values).max()
    positions = np.random.RandomState(1).choice(values.size, min(64, values.size), replace=False)
    np.testing.assert_allclose(values[positions], wanted["values"], rtol=0, atol=atol, err_msg=name)
    np.testing.assert_allclose(values.mean(), wanted["mean"], rtol=0, atol=atol, err_msg=name)
    np.testing.assert_allclose(values.std(), wanted["std"], rtol=0, atol=atol, err_msg=name)


def check_interface(interface: dict[str, Any], norms: list[str], channels: list[int], output: ModelOutput) -> None:
    """What the official methods answer, where the answer is right: some raise, some name other networks' numbers."""
    real = [map_BCHW.shape[1] for map_BCHW in output.features]
    assert channels == real
    published = interface.get("get_stage_channels")
    if isinstance(published, list) and len(published) == len(real):  # ImageNet's are hard-coded for all depths
        assert real == published
    named = interface.get("get_bn_before_relu")
    if isinstance(named, list) and all(kind == "BatchNorm2d" for _, kind, _ in named):
        wanted = [key for key, _, _ in named]
        assert norms[-len(wanted) :] == wanted  # ImageNet's leave out the first stage


def check_maps(reference: dict[str, Any], output: ModelOutput) -> None:
    ours = {"pooled_feat": output.pooled_BD}
    ours |= {f"feats.{i}": map_BCHW for i, map_BCHW in enumerate(output.features)}
    ours |= {f"preact_feats.{i}": map_BCHW for i, map_BCHW in enumerate(output.preact_features)}
    assert set(reference["features"]) <= set(ours)
    assert len([name for name in reference["features"] if name.startswith("feats.")]) == len(output.features)
    for name, wanted in reference["features"].items():
        check_feature(name, ours[name], wanted, ROUNDING * reference["logits"]["feat_fp32_vs_fp64_max_rel"])


def test_published_network(golden_entry: str, golden: Golden) -> None:
    facts, logits = golden
    entry = facts["entries"][golden_entry]
    origin = entry.get("same_as", golden_entry)
    reference = facts["entries"][origin]
    scope = CLASSES[golden_entry.split("/")[1]]
    side = reference["input_hw"] or {"cifar": 32, "tiny": 64, "imagenet": 224}[scope]
    shapes, parameters, norms, channels, output = run(*recipe_of(golden_entry), facts["num_classes"][scope], side)

    added = RECONSTRUCTED.get(golden_entry, [])
    assert parameters - sum(int(np.prod(shapes[key])) for key in added) == entry["n_params"]
    module = {key.rpartition(".")[0] for key in added}
    assert [[k, v] for k, v in shapes.items() if k.rpartition(".")[0] not in module] == reference["keys"]
    interface = reference["interface"] if entry["interface"] == "same" else entry["interface"]
    check_interface(interface, norms, channels, output)
    assert bool(torch.isfinite(output.logits_BK).all())
    if "logits" not in reference:  # the official network raises at its own image size: see forward_errors
        assert reference["forward_errors"]
        return
    error = reference["logits"]["fp32_vs_fp64_max_rel"]
    atol = ROUNDING * error * reference["logits"]["abs_max"]
    np.testing.assert_allclose(output.logits_BK.numpy(), logits[origin], rtol=0, atol=atol)
    check_maps(reference, output)


def test_every_network_of_the_sources_is_in_the_golden_folder_of_the_project() -> None:
    """A registered network that no source has needs no golden numbers."""
    entries = read_golden(OWN_FOLDER / "models")[0]["entries"]
    golden = {recipe_of(entry)[0] for entry in entries}
    assert (len(entries), len(golden)) == (264, 62)
    assert golden <= set(MODELS.names())
