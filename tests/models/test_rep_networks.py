"""Networks built from re-parameterisable blocks, and the CIFAR networks they belong to, beyond the golden numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models import MODELS
from pipeline.models.blocks import BLOCKS, deploy, fit_form

SMALL = ("resnet8", "vgg8", "cifar/mobilenetv2", "shufflev1")
CLASSES = 5


def make(name: str, **options: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.get(name)(num_classes=CLASSES, **options)


def image(batch: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block", BLOCKS.names())
@pytest.mark.parametrize("name", SMALL)
def test_every_network_takes_every_block(name: str, block: str) -> None:
    """One step of training, then the fold: the same logits and features, and the deployed state loads again."""
    network = make(name, block=block)
    F.cross_entropy(network(image(4)).logits_BK, torch.arange(4)).backward()
    assert all(p.grad is not None for p in network.parameters())
    torch.optim.SGD(network.parameters(), lr=0.01).step()
    network.double().eval()
    folded = deploy(copy.deepcopy(network))
    with torch.no_grad():
        wanted, found = (one(image().double(), features=True) for one in (network, folded))
    for one, other in zip((wanted.logits_BK, *wanted.features), (found.logits_BK, *found.features), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12 * float(one.abs().max()))
    assert folded.stage_channels == network.stage_channels

    again = make(name, block=block)
    fit_form(again, folded.state_dict())
    again.load_state_dict(folded.state_dict())
    assert list(again.state_dict()) == list(folded.state_dict())
    plain = make(name)
    before = list(plain.state_dict())
    fit_form(plain, folded.state_dict())
    assert list(plain.state_dict()) == before


@pytest.mark.parametrize("name", SMALL)
def test_plain_and_single_branch_are_one_function(name: str) -> None:
    """ConvBN holds the plain layers under other names, in the same order: the same numbers give the same outputs."""
    plain, single = make(name).eval(), make(name, block="convbn").eval()
    rows = [value for key, value in plain.state_dict().items() if not (name == "vgg8" and key.endswith(".0.bias"))]
    single.load_state_dict(dict(zip(single.state_dict(), rows, strict=True)))
    with torch.no_grad():
        assert torch.equal(plain(image()).logits_BK, single(image()).logits_BK)
    assert len(plain.bn_before_relu()) == len(single.bn_before_relu()) == len(plain.stage_channels) - 1
    assert deploy(single).bn_before_relu() == [] or name == "shufflev1"


@pytest.mark.parametrize(
    ("name", "norms"), [("represnet8x4", 0), ("repvgg8", 0), ("repmobilenetv2", 4), ("repshufflev1", 3)]
)
def test_bn_before_relu_of_kdrefines_students(name: str, norms: int) -> None:
    """None where a block of several branches comes last; 1x1 convolutions stay with one BN."""
    network = make(name)
    assert len(network.bn_before_relu()) == norms
    plain = make(name, block="plain")
    assert len(plain.bn_before_relu()) == len(plain.stage_channels) - 1
    assert not any(hasattr(m, "deploy") for m in plain.modules())


def test_five_branches_start_five_times_the_variance() -> None:
    network = make("represnet8x4").train()
    stem_BCHW = network.conv1(image(16))
    torch.testing.assert_close(stem_BCHW.std(), torch.tensor(5.0).sqrt(), rtol=0.2, atol=0)
    thin = network.get_submodule("layer3.0.conv2.hor_conv").weight
    torch.testing.assert_close(thin.std(), torch.tensor((2 / (3 * 256)) ** 0.5), rtol=0.02, atol=0)


def test_mobilenetv2_starts_as_published() -> None:
    network = make("cifar/mobilenetv2")
    torch.testing.assert_close(network.classifier.weight.std(), torch.tensor(0.01), rtol=0.05, atol=0)
    assert not network.classifier.bias.any()
    last = network.get_submodule("conv2.0").weight
    torch.testing.assert_close(last.std(), torch.tensor((2 / 1280) ** 0.5), rtol=0.01, atol=0)


@pytest.mark.parametrize(("side", "window"), [(32, 2), (64, 4)])
def test_mobilenetv2_pools_as_both_published_forms(side: int, window: int) -> None:
    network = make("mobilenetv2_1_0").eval()
    with torch.no_grad():
        output = network(image(side=side), features=True)
        map_BCHW = network.conv2(output.features[-1])
    torch.testing.assert_close(F.avg_pool2d(map_BCHW, window).flatten(1), output.pooled_BD)
    assert [m.shape[-1] for m in output.features] == [side // s for s in (2, 2, 4, 8, 16)]
    assert output.preact_features == () and all(bool((m < 0).any()) for m in output.features[1:])


def test_mobilenetv2_classifier_is_a_linear_layer_under_its_published_key() -> None:
    network = copy.deepcopy(make("cifar/mobilenetv2").eval())
    keys = ["classifier.0.weight", "classifier.0.bias"]
    for listing in (network.state_dict(), dict(network.named_parameters())):
        assert [key for key in listing if key.startswith("classifier")] == keys
    assert isinstance(network.classifier, nn.Linear) and network.classifier.weight is network.get_parameter(keys[0])
    doubled = {key: 2 * value for key, value in network.named_parameters() if key in keys}
    with torch.no_grad():
        wanted_BK = 2 * network(image()).logits_BK
        torch.testing.assert_close(torch.func.functional_call(network, doubled, image()).logits_BK, wanted_BK)


@pytest.mark.parametrize("training", (False, True))
def test_shufflenet_features_are_the_activated_maps(training: bool) -> None:
    network = make("shufflev1").train(training)
    output = network(image(), features=True)
    for post_BCHW, preact_BCHW in zip(output.features[1:], output.preact_features[1:], strict=True):
        assert torch.equal(F.relu(preact_BCHW), post_BCHW) and bool((preact_BCHW < 0).any())
    assert [m.shape[-1] for m in output.features] == [32, 16, 8, 4]
    torch.testing.assert_close(F.avg_pool2d(output.features[-1], 4).flatten(1), output.pooled_BD)


def test_channel_shuffle_is_a_transposition() -> None:
    from pipeline.models.shufflenetv1 import shuffled

    x_BCHW = torch.arange(2 * 6 * 2 * 1.0).reshape(2, 6, 2, 1)
    wanted = [x_BCHW[:, 2 * group + i] for i in range(2) for group in range(3)]
    for format_ in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(shuffled(x_BCHW.contiguous(memory_format=format_), 3), torch.stack(wanted, 1))
