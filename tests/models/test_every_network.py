"""What every registered network promises (pipeline.models.common.Network)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models import MODELS
from pipeline.models.common import Network

ALL = MODELS.names()
SMALLEST = ("resnet8", "wrn_16_1", "vgg8")
CLASSES = 7


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.get(name)(num_classes=CLASSES)


def image(batch: int, side: int) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ALL)
def test_output_and_parts(name: str) -> None:
    network = build(name).eval()
    assert isinstance(network, Network)
    with torch.no_grad():
        full = network(image(1, 32), features=True)
        plain = network(image(1, 32))

    assert plain.features == plain.preact_features == ()
    assert torch.equal(plain.logits_BK, full.logits_BK) and torch.equal(plain.pooled_BD, full.pooled_BD)
    assert plain.logits_BK.shape == (1, CLASSES)
    assert torch.equal(network.classifier(full.pooled_BD), full.logits_BK)
    assert [map_BCHW.shape[1] for map_BCHW in full.features] == network.stage_channels
    assert [map_BCHW.shape for map_BCHW in full.preact_features] == [map_BCHW.shape for map_BCHW in full.features]
    assert full.preact_features[0] is full.features[0]

    stages = network.stages()
    held = [id(p) for stage in stages for p in stage.parameters()]
    assert len(stages) == len(network.stage_channels)
    assert len(held) == len(set(held)) and set(held) <= {id(p) for p in network.parameters()}
    assert network.classifier.weight is list(network.parameters())[-2]
    assert not {id(p) for p in network.classifier.parameters()} & set(held)


@pytest.mark.parametrize("name", SMALLEST)
def test_feature_depends_on_its_stages_and_no_later_one(name: str) -> None:
    network = build(name).eval()
    for i in range(len(network.stage_channels)):
        network.zero_grad()
        network(image(1, 16), features=True).features[i].square().sum().backward()
        touched = [all(p.grad is not None for p in stage.parameters()) for stage in network.stages()]
        assert touched == [j <= i for j in range(len(touched))]


@pytest.mark.parametrize("side", (32, 33, 48, 64))
@pytest.mark.parametrize("name", SMALLEST)
def test_any_size_channels_last_and_single_images(name: str, side: int) -> None:
    network = build(name).eval()
    with torch.no_grad():
        batch = network(image(3, side), features=True)
        single = network(image(3, side)[:1])
        network.to(memory_format=torch.channels_last)
        last = network(image(3, side).contiguous(memory_format=torch.channels_last), features=True)
    torch.testing.assert_close(single.logits_BK, batch.logits_BK[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last.logits_BK, batch.logits_BK, rtol=1e-4, atol=1e-5)
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in last.features + last.preact_features)


@pytest.mark.parametrize("name", SMALLEST)
def test_asking_for_features_changes_no_statistic_and_no_gradient(name: str) -> None:
    states, gradients = [], []
    for features in (False, True):
        network = build(name).train()
        output = network(image(4, 16), features=features)
        F.cross_entropy(output.logits_BK, torch.arange(4)).backward()
        states.append(network.state_dict())
        gradients.append([p.grad for p in network.parameters()])
    assert all(g is not None for g in gradients[0])  # DDP waits for ever for a parameter that has none
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert {int(value) for key, value in states[1].items() if key.endswith("num_batches_tracked")} == {1}


def check_traces(name: str, *, features: bool, gradient: bool) -> None:
    network = build(name).train()
    torch._dynamo.reset()
    traced = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(gradient):
        got = traced(image(2, 16), features=features)
        wanted = network(image(2, 16), features=features)
    scale = float(wanted.logits_BK.detach().abs().max())
    torch.testing.assert_close(got.logits_BK, wanted.logits_BK, rtol=1e-3, atol=1e-4 * scale)
    assert len(got.features) == len(got.preact_features) == len(network.stage_channels) * features
    if gradient:
        got.logits_BK.sum().backward()


@pytest.mark.parametrize("name", SMALLEST)
def test_traces_as_one_graph(name: str) -> None:
    check_traces(name, features=True, gradient=True)
    check_traces(name, features=False, gradient=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in SMALLEST])
def test_traces_as_one_graph_at_any_depth(name: str) -> None:
    check_traces(name, features=True, gradient=True)
    check_traces(name, features=False, gradient=False)


@pytest.mark.parametrize("name", SMALLEST)
def test_initial_weights(name: str) -> None:
    network = build(name)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    ratios = [c.weight.std() * (c.weight[:, 0].numel() / 2) ** 0.5 for c in convs if c.weight.numel() > 10_000]
    torch.testing.assert_close(torch.stack(ratios), torch.ones(len(ratios)), rtol=0.05, atol=0)
    assert all(not c.bias.any() for c in convs if c.bias is not None)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        assert bool((norm.weight == 1).all()) and not norm.bias.any()


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("res20", "resnet20"), ("ResNet32x4", "resnet32x4"), ("res8x4", "resnet8x4")]
    + [(spelling, "wrn_16_2") for spelling in ("wrn16_2", "WRN-16-2", "wrn16-2")],
)
def test_usual_spellings(spelling: str, name: str) -> None:
    assert MODELS.canonical(spelling) == name
