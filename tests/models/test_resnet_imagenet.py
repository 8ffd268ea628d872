"""ImageNet ResNets beyond the golden numbers: torchvision's own networks, and where the stem's feature is taken."""

import pytest
import torch
import torch.nn.functional as F
from models.families import CLASSES, image, make
from models.twins import check_twins

from pipeline.models.blocks import deploy
from pipeline.models.build import build


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("imagenet/resnet18", "resnet18"),
        ("imagenet/resnet34", "resnet34"),
        ("imagenet/resnet50", "resnet50"),
        ("imagenet/resnet101", "resnet101"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("wrn_50_2", "wide_resnet50_2"),
    ],
)
def test_torchvisions_weights_give_torchvisions_logits(name: str, theirs: str) -> None:
    check_twins(name, theirs)


def test_stem_feature_moves_the_first_feature_only() -> None:
    before, after = (
        build("imagenet/resnet18", num_classes=CLASSES, stem_feature=where).eval()
        for where in ("before_pool", "after_pool")
    )
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        a, b = before(image(2, 64), features=True), after(image(2, 64), features=True)
    assert torch.equal(a.logits_BK, b.logits_BK)
    assert all(torch.equal(x, y) for x, y in zip(a.features[1:], b.features[1:], strict=True))
    assert [m.shape[-1] for m in a.features] == [32, 16, 8, 4, 2]
    assert [m.shape[-1] for m in b.features] == [16, 16, 8, 4, 2]
    assert torch.equal(F.max_pool2d(a.features[0], 3, 2, 1), b.features[0])
    assert b.preact_features[0] is b.features[0] and a.preact_features[0] is a.features[0]


def test_features_are_the_activated_sums() -> None:
    output = make("resnet10x2").train()(image(2, 64), features=True)
    for post_BCHW, preact_BCHW in zip(output.features[1:], output.preact_features[1:], strict=True):
        assert torch.equal(F.relu(preact_BCHW), post_BCHW) and bool((preact_BCHW < 0).any())
    assert torch.equal(output.features[-1].mean(dim=(2, 3)), output.pooled_BD)


def test_pooling_at_224_is_the_published_one() -> None:
    with torch.no_grad():
        output = make("imagenet/resnet18").eval()(image(1, 224), features=True)
    torch.testing.assert_close(F.avg_pool2d(output.features[-1], 7).flatten(1), output.pooled_BD)


def test_bn_before_relu_counts_the_first_stage() -> None:
    for name, last in (("imagenet/resnet34", "bn2"), ("resnext50_32x4d", "bn3")):
        network = make(name)
        names = {id(module): key for key, module in network.named_modules()}
        wanted = [f"layer1.2.{last}", f"layer2.3.{last}", f"layer3.5.{last}", f"layer4.2.{last}"]
        assert [names[id(norm)] for norm in network.bn_before_relu()] == wanted


@pytest.mark.parametrize("name", ("resnet10x2", "resnext50_32x4d"))
def test_a_reparameterised_block_folds_to_the_same_network(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, num_classes=5, block="acb").double()
    network(image(4, 64).double())  # BN statistics that are not 0 and 1
    network.eval()
    channels = network.stage_channels
    with torch.no_grad():
        before = network(image(2, 64).double()).logits_BK
        after = deploy(network)(image(2, 64).double()).logits_BK
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12 * float(before.abs().max()))
    assert network.stage_channels == channels == build(name, num_classes=5).stage_channels
