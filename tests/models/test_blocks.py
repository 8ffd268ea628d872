"""Re-parameterisable blocks beyond the golden numbers: the fold is exact wherever the block can be built."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models.blocks import BLOCKS, PLAIN, conv_bn, conv_bn_layers, deploy, fit_form, last_bn, last_bns
from pipeline.models.blocks.folding import Block
from pipeline.registry import UnknownName

ALL = BLOCKS.names()
IN, OUT = 4, 8


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` in float64 and eval mode with random weights, BN scales of either sign and random BN statistics."""
    torch.manual_seed(seed)
    module.double().eval()
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(noise(*value.shape).abs() + 0.1 if key.endswith("running_var") else noise(*value.shape))
    return module


def check_fold(block: nn.Module, x_BCHW: torch.Tensor) -> nn.Module:
    """The deployed copy, after comparing it with the block at each pixel, borders included."""
    folded = deploy(copy.deepcopy(block))
    with torch.no_grad():
        wanted_BCHW, found_BCHW = block(x_BCHW), folded(x_BCHW)
    assert wanted_BCHW.shape == found_BCHW.shape
    scale = float(wanted_BCHW.abs().max())
    torch.testing.assert_close(found_BCHW, wanted_BCHW, rtol=0, atol=1e-12 * scale)
    return folded


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "groups", "out"),
    list(itertools.product(ALL, (3, 5), (1, 2), (1, 2, IN), (IN, OUT))) + [(n, 1, 2, 1, OUT) for n in ALL],
)
def test_deployed_is_the_training_form(name: str, kernel: int, stride: int, groups: int, out: int) -> None:
    block = shaken(BLOCKS.get(name)(IN, out, kernel, stride=stride, groups=groups))
    folded = check_fold(block, noise(2, IN, 9, 8))
    (conv,) = folded.children()
    assert isinstance(conv, nn.Conv2d) and type(conv) is nn.Conv2d
    assert set(folded.state_dict()) == {f"{block.folded_name}.weight", f"{block.folded_name}.bias"}


@pytest.mark.parametrize(
    ("name", "kernel", "padding"),
    list(itertools.product(ALL, (3, 5), (0, 1, 3))) + [(n, 4, p) for n in ALL for p in (1, 2)],
)
def test_any_padding_and_even_kernels(name: str, kernel: int, padding: int) -> None:
    block = shaken(BLOCKS.get(name)(IN, IN, kernel, padding=padding))
    check_fold(block, noise(2, IN, 7, 6))


@pytest.mark.parametrize(("name", "options"), [("dbb", {"mid_channels": 6}), ("repvgg", {"activate": True})])
def test_options(name: str, options: dict[str, Any]) -> None:
    block = shaken(BLOCKS.get(name)(IN, OUT, 3, groups=2, **options))
    check_fold(block, noise(2, IN, 7, 6))
    assert bool((block(noise(2, IN, 7, 6)) >= 0).all()) == (name == "repvgg")


@pytest.mark.parametrize("name", ALL)
def test_fold_of_trained_statistics(name: str) -> None:
    """A few steps in training mode instead of made-up statistics."""
    torch.manual_seed(0)
    block = BLOCKS.get(name)(IN, OUT, 3, stride=2).double()
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(3):
        block(noise(4, IN, 7, 7)).square().mean().backward()
        optimizer.step()
    check_fold(block.eval(), noise(2, IN, 7, 7))


@pytest.mark.parametrize("name", ALL)
def test_deploy_keeps_what_the_block_was(name: str) -> None:
    block = BLOCKS.get(name)(IN, OUT, 3).half().to(memory_format=torch.channels_last)
    drawn = torch.get_rng_state()
    assert deploy(block) is block
    assert torch.equal(torch.get_rng_state(), drawn)  # folding in the middle of a run must not change what follows
    first = {key: value.clone() for key, value in block.state_dict().items()}
    (conv,) = block.children()
    assert block.training and conv.training and conv.weight.dtype == conv.bias.dtype == torch.float16
    assert conv.weight.is_contiguous(memory_format=torch.channels_last) and conv.weight.requires_grad
    deploy(block.eval())
    assert list(block.children()) == [conv]
    assert all(torch.equal(value, first[key]) for key, value in block.state_dict().items())

    frozen = deploy(BLOCKS.get(name)(IN, OUT, 3, groups=2).eval().requires_grad_(False))
    assert not any(m.training for m in frozen.modules()) and not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("name", ALL)
def test_fold_loses_nothing_to_float32(name: str) -> None:
    """The folded float32 numbers are those of a float64 fold, rounded once."""
    block = shaken(BLOCKS.get(name)(IN, OUT, 5)).float()
    exact = deploy(copy.deepcopy(block).double())
    found = deploy(block)
    assert all(torch.equal(value, exact.state_dict()[key].float()) for key, value in found.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_one_graph_with_gradients_in_channels_last(name: str) -> None:
    torch.manual_seed(0)
    block = BLOCKS.get(name)(IN, IN, 3).to(memory_format=torch.channels_last)
    twin = copy.deepcopy(block)
    x_BCHW = torch.randn(2, IN, 6, 6).contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()
    traced_BCHW, wanted_BCHW = torch.compile(block, fullgraph=True, backend="aot_eager")(x_BCHW), twin(x_BCHW)
    torch.testing.assert_close(traced_BCHW, wanted_BCHW)
    assert wanted_BCHW.is_contiguous(memory_format=torch.channels_last)
    traced_BCHW.square().sum().backward()
    wanted_BCHW.square().sum().backward()
    for one, other in zip(block.parameters(), twin.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_dbb_starts_with_an_identity() -> None:
    first = BLOCKS.get("dbb")(IN, OUT, 3, groups=2).get_submodule("dbb_1x1_kxk.idconv1")
    x_BCHW = torch.randn(2, IN, 5, 5)
    torch.testing.assert_close(first(x_BCHW), x_BCHW)


@pytest.mark.parametrize("name", [None, PLAIN])
def test_plain_pair(name: str | None) -> None:
    conv, norm = conv_bn(name, IN, OUT, 3, 2, 2)
    assert type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and conv.bias is None
    assert (conv.stride, conv.padding, conv.groups) == ((2, 2), (1, 1), 2)
    assert [type(m) for m in conv_bn_layers(name, IN, OUT, 1, bias=True)] == [nn.Conv2d, nn.BatchNorm2d]


@pytest.mark.parametrize(
    ("kernel", "kind"), [(1, "ConvBN"), (3, "AMBB"), (5, "AMBB"), (6, "AMBB"), (7, "ConvBN"), (11, "ConvBN")]
)
def test_which_kernels_get_branches(kernel: int, kind: str) -> None:
    block, after = conv_bn("ambb", IN, OUT, kernel)
    assert type(block).__name__ == kind and type(after) is nn.Identity
    assert [type(m).__name__ for m in conv_bn_layers("AMBB", IN, OUT, kernel)] == [kind]


def test_names() -> None:
    assert ALL == ["acb", "ambb", "convbn", "dbb", "repvgg"]
    assert [BLOCKS.canonical(name) for name in ("base", "ACTDB", "TDB", "RepVGG")] == [
        "convbn",
        "ambb",
        "ambb",
        "repvgg",
    ]
    with pytest.raises(UnknownName, match="unknown block 'amb'; did you mean 'ambb'"):
        conv_bn("amb", IN, OUT, 1)


def test_last_bn() -> None:
    single, many = BLOCKS.get("convbn")(IN, OUT, 3), BLOCKS.get("ambb")(IN, OUT, 3)
    assert last_bn(single) is single.get_submodule("bn") and last_bn(many) is None
    assert last_bn(nn.Sequential(many, nn.Identity())) is None and last_bn(nn.Sequential()) is None
    conv, norm = conv_bn(None, IN, OUT, 3)
    pair, wrapped = nn.Sequential(conv, norm), nn.Sequential(single, nn.Identity())
    assert last_bn(pair) is norm and last_bn(conv) is None and last_bn(nn.Sequential(pair, nn.ReLU())) is None
    assert last_bns([pair, wrapped]) == [norm, single.get_submodule("bn")] and last_bns([pair, many]) == []
    deploy(single)
    assert last_bn(wrapped) is None


def test_fit_form() -> None:
    """All or nothing: keys of the deployed form fold the network, any others leave it alone."""

    def made() -> nn.Sequential:
        plain = nn.Sequential(*conv_bn_layers(None, OUT, OUT, 3))
        return nn.Sequential(BLOCKS.get("dbb")(IN, OUT, 3), nn.ReLU(), plain, BLOCKS.get("convbn")(OUT, OUT, 1))

    network = made()
    training, deployed = list(network.state_dict()), list(deploy(made()).state_dict())
    half = list(nn.Sequential(deploy(network[0]), *list(network)[1:]).state_dict())
    for keys in (training, half, deployed[1:], [*deployed, "x"], [], list(network[0].state_dict())):
        network = made()
        fit_form(network, keys)
        assert list(network.state_dict()) == training
    for _ in range(2):
        fit_form(network, (key for key in deployed))
        assert list(network.state_dict()) == deployed
    fit_form(network, training)
    assert list(network.state_dict()) == deployed
    block = BLOCKS.get("acb")(IN, OUT, 3)
    fit_form(block, ["fused_conv.weight", "fused_conv.bias"])
    assert isinstance(block, Block) and block.deployed
