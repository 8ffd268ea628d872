"""CIFAR ResNets beyond the golden numbers."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.models import MODELS


@pytest.mark.parametrize("training", (False, True))
def test_features_are_the_activated_sums(training: bool) -> None:
    torch.manual_seed(0)
    network = MODELS.get("resnet14")(num_classes=5).train(training)
    output = network(torch.randn(2, 3, 32, 32), features=True)
    for post_BCHW, preact_BCHW in zip(output.features[1:], output.preact_features[1:], strict=True):
        assert torch.equal(F.relu(preact_BCHW), post_BCHW) and bool((preact_BCHW < 0).any())
    assert torch.equal(output.features[-1].mean(dim=(2, 3)), output.pooled_BD)
    assert [m.shape[-1] for m in output.features] == [32, 32, 16, 8]


def test_pooling_at_32_is_the_published_one() -> None:
    network = MODELS.get("resnet8")(num_classes=5).eval()
    output = network(torch.randn(2, 3, 32, 32), features=True)
    torch.testing.assert_close(F.avg_pool2d(output.features[-1], 8).flatten(1), output.pooled_BD)


def test_classifier_keeps_torchs_default_initial_weights() -> None:
    network = MODELS.get("resnet8x4")(num_classes=1000)
    bound = 256**-0.5  # torch.nn.Linear: uniform(+-1 / sqrt(in_features)) for weight and bias
    for values in (network.fc.weight, network.fc.bias):
        assert 0.99 * bound < float(values.detach().abs().max()) <= bound
