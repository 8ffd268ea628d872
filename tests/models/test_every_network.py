"""What every registered network promises (pipeline.models.common.Network)."""

import pytest
import torch
import torch.nn.functional as F
from models.families import ALL, CLASSES, image, make, sides, smallest
from torch import nn

from pipeline.models import MODELS
from pipeline.models.common import Network

FAMILIES = list(smallest().values())


@pytest.mark.parametrize("name", ALL)
def test_output_and_parts(name: str) -> None:
    network = make(name).eval()
    assert isinstance(network, Network)
    with torch.no_grad():
        full = network(image(1, 32), features=True)
        plain = network(image(1, 32))

    assert plain.features == plain.preact_features == ()
    assert torch.equal(plain.logits_BK, full.logits_BK) and torch.equal(plain.pooled_BD, full.pooled_BD)
    assert plain.logits_BK.shape == (1, CLASSES)
    assert torch.equal(network.classifier(full.pooled_BD), full.logits_BK)
    assert [map_BCHW.shape[1] for map_BCHW in full.features] == network.stage_channels
    if full.preact_features:
        assert [m.shape for m in full.preact_features] == [m.shape for m in full.features]

    stages = network.stages()
    held = [id(p) for stage in stages for p in stage.parameters()]
    own = {id(p) for p in network.parameters()}
    assert len(stages) == len(network.stage_channels) == len(full.features)
    assert len(held) == len(set(held)) and set(held) <= own
    head = {id(p) for p in network.classifier.parameters()}
    assert len(head) == 2 and head <= own and not head & set(held)
    norms = network.bn_before_relu()
    assert len(norms) in (0, len(stages), len(stages) - 1)
    assert all(isinstance(m, nn.BatchNorm2d) and id(m.weight) in own for m in norms)


@pytest.mark.parametrize("name", ALL)
def test_trains_in_channels_last(name: str) -> None:
    """One forward and backward in training mode; features asked for change no gradient and no statistic."""
    side = min(sides(name))
    states, gradients = [], []
    for features in (False, True):
        network = make(name).train().to(memory_format=torch.channels_last)
        torch.manual_seed(1)  # one of them drops out
        output = network(image(2, side).contiguous(memory_format=torch.channels_last), features=features)
        F.cross_entropy(output.logits_BK, torch.arange(2)).backward()
        states.append(network.state_dict())
        gradients.append([p.grad for p in network.parameters()])
        assert all(m.is_contiguous(memory_format=torch.channels_last) for m in output.features if m.shape[2] > 1)
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients[0])  # DDP waits for one that has none
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert {int(value) for key, value in states[1].items() if key.endswith("num_batches_tracked")} == {1}


@pytest.mark.parametrize("name", FAMILIES)
def test_feature_depends_on_its_stages_and_no_later_one(name: str) -> None:
    network = make(name).eval()
    for i in range(len(network.stage_channels)):
        network.zero_grad()
        network(image(1, 32), features=True).features[i].square().sum().backward()
        touched = [all(p.grad is not None for p in stage.parameters()) for stage in network.stages()]
        assert touched == [j <= i for j in range(len(touched))]


@pytest.mark.parametrize("name", FAMILIES)
def test_preactivation_is_what_its_bn_gives(name: str) -> None:
    """Each BN of bn_before_relu ends its stage: its output enters preact_features[i], alone or by a sum."""
    network = make(name).eval()
    seen: list[torch.Tensor] = []
    norms = network.bn_before_relu()
    handles = [m.register_forward_hook(lambda _m, _i, out: seen.append(out)) for m in norms]
    output = network(image(1, 32), features=True)
    [handle.remove() for handle in handles]
    maps = (output.preact_features or output.features)[-len(norms) :] if norms else ()
    assert len(seen) == len(norms)
    for given_BCHW, map_BCHW in zip(seen, maps, strict=True):
        assert given_BCHW.shape == map_BCHW.shape
        (gradient,) = torch.autograd.grad(map_BCHW.sum(), given_BCHW, retain_graph=True)
        assert bool((gradient == 1).all())


@pytest.mark.parametrize("side", (32, 48, 64))
@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_channels_last_and_single_images(name: str, side: int) -> None:
    network = make(name).eval()
    with torch.no_grad():
        batch = network(image(3, side), features=True)
        single = network(image(3, side)[:1])
        network.to(memory_format=torch.channels_last)
        last = network(image(3, side).contiguous(memory_format=torch.channels_last), features=True)
    scale = float(batch.logits_BK.abs().max())
    torch.testing.assert_close(single.logits_BK, batch.logits_BK[:1], rtol=1e-4, atol=1e-4 * scale)
    torch.testing.assert_close(last.logits_BK, batch.logits_BK, rtol=1e-4, atol=1e-4 * scale)


def check_traces(name: str, *, side: int, batch: int, features: bool, gradient: bool, backend: str) -> None:
    """One graph, equal to eager. batch 1 runs in eval mode: BN has no variance of one number."""
    network = make(name).train(batch > 1)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # inductor draws from a generator of its own
    torch._dynamo.reset()
    traced = torch.compile(network, fullgraph=True, backend=backend)
    pixels = image(batch, side).contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(gradient):
        got = traced(pixels, features=features)
        wanted = network(pixels, features=features)
    scale = float(wanted.logits_BK.detach().abs().max())
    torch.testing.assert_close(got.logits_BK, wanted.logits_BK, rtol=1e-3, atol=1e-3 * scale)
    assert len(got.features) == len(network.stage_channels) * features
    if gradient:
        got.logits_BK.sum().backward()


@pytest.mark.parametrize("name", FAMILIES)
def test_traces_as_one_graph(name: str) -> None:
    """Dynamo's graph alone; the slow test below has that of autograd too, six times the work."""
    check_traces(name, side=min(sides(name)), batch=2, features=True, gradient=True, backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_network_traces_as_one_graph(name: str) -> None:
    for side in sides(name):
        check_traces(name, side=side, batch=1, features=False, gradient=False, backend="aot_eager")
    check_traces(name, side=max(sides(name)), batch=2, features=True, gradient=True, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_inductor(name: str) -> None:
    check_traces(name, side=min(sides(name)), batch=2, features=False, gradient=True, backend="inductor")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("res20", "resnet20"), ("ResNet32x4", "resnet32x4"), ("res8x4", "resnet8x4")]
    + [(spelling, "wrn_16_2") for spelling in ("wrn16_2", "WRN-16-2", "wrn16-2")],
)
def test_usual_spellings(spelling: str, name: str) -> None:
    assert MODELS.canonical(spelling) == name
