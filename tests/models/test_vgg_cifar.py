"""VGG beyond the golden numbers: the pooling that depends on the image's height."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.models import MODELS


@pytest.mark.parametrize(("height", "last"), [(32, 4), (64, 4), (48, 6), (96, 12)])
def test_fourth_pooling_at_height_64_only(height: int, last: int) -> None:
    torch.manual_seed(0)
    network = MODELS.get("vgg8")(num_classes=5).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 3, height, 32), features=True)
    assert output.features[4].shape[2] == last
    assert [m.shape[2] for m in output.features[:4]] == [height, height // 2, height // 4, height // 8]
    for post_BCHW, preact_BCHW in zip(output.features[1:], output.preact_features[1:], strict=True):
        assert torch.equal(F.relu(preact_BCHW), post_BCHW) and bool((preact_BCHW < 0).any())
    assert torch.equal(output.features[-1].mean(dim=(2, 3)), output.pooled_BD)


def test_classifier_starts_small() -> None:
    network = MODELS.get("vgg8")(num_classes=100)
    torch.testing.assert_close(network.classifier.weight.std(), torch.tensor(0.01), rtol=0.05, atol=0)
    assert not network.classifier.bias.any()
