"""Wide ResNets beyond the golden numbers: where the pre-activation features come from, and what that costs BN."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS

LOOKED_AHEAD = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")


def build(**options: bool) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.get("wrn_16_1")(num_classes=5, **options)


def image() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", (False, True))
def test_preact_features_are_the_next_bn_called_again(training: bool) -> None:
    network = build().train(training)
    output = network(image(), features=True)
    assert torch.equal(network.conv1(image()), output.features[0])
    for name, raw_BCHW, preact_BCHW in zip(LOOKED_AHEAD, output.features[1:], output.preact_features[1:], strict=True):
        torch.testing.assert_close(network.get_submodule(name)(raw_BCHW), preact_BCHW)
    torch.testing.assert_close(output.preact_features[-1].relu().mean(dim=(2, 3)), output.pooled_BD)


def as_it_is(network: nn.Module) -> Callable[..., ModelOutput]:
    return network


def as_one_graph(network: nn.Module) -> Callable[..., ModelOutput]:
    return torch.compile(network, fullgraph=True, backend="eager")


@pytest.mark.parametrize(("wrap", "features"), [(as_it_is, False), (as_it_is, True), (as_one_graph, False)])
def test_double_bn_update_is_that_of_mdistiller(
    wrap: Callable[[nn.Module], Callable[..., ModelOutput]], features: bool
) -> None:
    once, twice = build().train(), build(double_bn_update=True).train()
    a, b = once(image(), features=features), wrap(twice)(image(), features=features)
    torch.testing.assert_close(a.logits_BK, b.logits_BK)
    steps = {key: int(v) for key, v in twice.state_dict().items() if key.endswith("num_batches_tracked")}
    assert {key.removesuffix(".num_batches_tracked") for key, v in steps.items() if v == 2} == set(LOOKED_AHEAD)
    assert set(steps.values()) == {1, 2}
    for name, norm in twice.named_modules():
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        first = once.get_submodule(name)
        # running = 0.9 running + 0.1 batch, from mean 0 and variance 1: the batch's own value follows from one update
        mean, variance = first.running_mean / 0.1, (first.running_var - 0.9) / 0.1
        updates = 2 if name in LOOKED_AHEAD else 1
        kept = 0.9**updates
        torch.testing.assert_close(norm.running_mean, (1 - kept) * mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, kept + (1 - kept) * variance, rtol=1e-4, atol=1e-5)


def test_double_bn_update_does_nothing_in_eval_mode() -> None:
    network = build(double_bn_update=True).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(image(), features=True)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_classifier_bias_starts_at_zero() -> None:
    network = build()
    assert not network.fc.bias.any() and bool(network.fc.weight.any())
