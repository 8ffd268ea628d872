"""Every registered network, and some of the libraries', with its batch norms folded: the same outputs and features."""

import pytest
import torch
from models.families import ALL, image, make
from torch import nn
from torch.utils._pytree import tree_leaves

from pipeline.models.build import build
from pipeline.models.cam import FORMS
from pipeline.models.folding import fold_norms

CLOSE = 1e-10
# What stays: pre-activation networks normalise sums, and half of what DenseNets normalise is a concatenation.
LEFT = {"wrn_16_1": 7, "wrn_16_2": 7, "wrn_40_1": 19, "wrn_40_2": 19}
LIBRARIES = {
    "timm:resnet18": 0,
    "timm:mobilenetv3_small_050": 0,  # batch norms with an activation inside
    "timm:resnetv2_18": 9,  # pre-activation
    "timm:nf_regnet_b0": 0,  # convolutions that standardise their weights
    "torchvision:shufflenet_v2_x0_5": 0,
    "torchvision:densenet121": 62,
}


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def lived(network: nn.Module) -> nn.Module:
    """In float64 and eval mode, with batch norms that have seen something."""
    torch.manual_seed(1)
    for norm in norms(network):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return network.double().eval()


@torch.no_grad()
def check(network: nn.Module, side: int, left: int) -> nn.Module:
    """The folded copy gives the network's numbers, has `left` batch norms, and leaves the network alone."""
    keys, values = zip(*network.state_dict().items(), strict=True)
    before = [value.clone() for value in values]
    folded = fold_norms(network, image(1, side).double())
    shown = image(3, side)[2:].double()
    pairs = zip(tree_leaves(folded(shown, features=True)), tree_leaves(network(shown, features=True)), strict=True)
    for found, wanted in pairs:
        assert (found - wanted).abs().max() <= CLOSE * wanted.abs().max()
    assert len(norms(folded)) == left
    assert tuple(network.state_dict()) == keys
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), before, strict=True))
    assert not any(p.requires_grad for p in folded.parameters()) and not folded.training
    return folded


@pytest.mark.parametrize("name", ALL)
def test_every_registered_network(name: str) -> None:
    check(lived(make(name)), 32, LEFT.get(name, 0))


@pytest.mark.parametrize("name", LIBRARIES)
def test_networks_of_libraries(name: str) -> None:
    torch.manual_seed(0)
    check(lived(build(name, num_classes=7)), 64, LIBRARIES[name])


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "cifar/mobilenetv2", "wrn_16_1"])
def test_class_activation_form(name: str) -> None:
    """Its maps are found by hooks on layers, batch norms among them."""
    network = lived(make(name))
    folded = check(FORMS["cam"](network, side=32), 32, LEFT.get(name, 0))
    shown = image(2, 32).double()
    with torch.no_grad():
        torch.testing.assert_close(folded(shown).logits_BK, network(shown).logits_BK)


def test_what_did_not_change_is_shared() -> None:
    """The classifier's weight is the very one that methods were given."""
    network = lived(make("wrn_16_1"))
    folded = fold_norms(network, image(1, 32).double())
    assert folded.classifier is not network.classifier and folded.classifier.weight is network.classifier.weight
    assert folded.conv1.weight is network.conv1.weight and folded.conv1.bias is None


def test_memory_format_dtype_and_mode_are_kept() -> None:
    network = make("resnet8").eval().to(memory_format=torch.channels_last)
    folded = fold_norms(network, image(1, 32))
    for conv in (m for m in folded.modules() if isinstance(m, nn.Conv2d)):
        assert conv.weight.dtype == torch.float32 and conv.bias is not None
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_random_state_stays() -> None:
    network = make("repvgg8").eval()
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    fold_norms(network, image(1, 32))
    assert torch.equal(torch.rand(1), wanted)
