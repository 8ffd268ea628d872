"""ResNet18 and ResNet50 for CIFAR beyond the golden numbers."""

import pytest
import torch
import torch.nn.functional as F
from models.families import image, make

from pipeline.models.blocks import deploy
from pipeline.models.build import build


@pytest.mark.parametrize("name", ("cifar/resnet18", "cifar/resnet50"))
def test_features_are_the_activated_sums(name: str) -> None:
    network = make(name).train()
    output = network(image(2, 32), features=True)
    for post_BCHW, preact_BCHW in zip(output.features[1:], output.preact_features[1:], strict=True):
        assert torch.equal(F.relu(preact_BCHW), post_BCHW) and bool((preact_BCHW < 0).any())
    assert output.preact_features[0] is output.features[0] and bool((output.features[0] >= 0).all())
    assert torch.equal(output.features[-1].mean(dim=(2, 3)), output.pooled_BD)
    assert [m.shape[-1] for m in output.features] == [32, 32, 16, 8, 4]


def test_the_stage_channels_are_the_real_ones() -> None:
    assert make("cifar/resnet18").stage_channels == [64, 64, 128, 256, 512]
    assert make("cifar/resnet50").stage_channels == [64, 256, 512, 1024, 2048]


def test_the_stem_feature_survives_the_first_block() -> None:
    """An in-place ReLU behind it would overwrite it."""
    network = make("cifar/resnet18").eval()
    with torch.no_grad():
        stem_BCHW = F.relu(network.bn1(network.conv1(image(2, 32))))
        assert torch.equal(network(image(2, 32), features=True).features[0], stem_BCHW)


@pytest.mark.parametrize("name", ("cifar/resnet18", "cifar/resnet50"))
def test_a_reparameterised_block_folds_to_the_same_network(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, num_classes=5, block="ambb").double()
    network(image(4, 32).double())  # BN statistics that are not 0 and 1
    network.eval()
    with torch.no_grad():
        before = network(image(2, 32).double()).logits_BK
        after = deploy(network)(image(2, 32).double()).logits_BK
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12 * float(before.abs().max()))
    assert network.bn_before_relu() == []


def test_bn_before_relu_with_blocks() -> None:
    """The bottleneck ends in a 1x1 convolution, which has one branch whatever the block; the basic block does not."""
    assert build("cifar/resnet18", num_classes=5, block="ambb").bn_before_relu() == []
    norms = build("cifar/resnet50", num_classes=5, block="ambb").bn_before_relu()
    assert [norm.num_features for norm in norms] == [256, 512, 1024, 2048]
