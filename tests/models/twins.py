"""Our networks beside torchvision's own: same keys, same first weights in distribution, same numbers."""

import pytest
import torch
from models.families import CLASSES, image, make
from torch import nn

from pipeline.utils.torchvision_compat import torchvision

SIDE = 64
LARGE = 5_000  # numbers in a tensor whose standard deviation is known to 3 %


def torchvision_twin(name: str) -> nn.Module:
    """torchvision's network with its first weights, and BN parameters and statistics that are not 0 and 1."""
    torch.manual_seed(2)
    network = torchvision().models.get_model(name, weights=None, num_classes=CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def check_twins(name: str, theirs: str) -> None:
    """Keys in order, first weights, and after a strict load the same logits."""
    ours, twin = make(name).eval(), torchvision_twin(theirs)
    assert list(ours.state_dict()) == list(twin.state_dict())
    for (key, mine), other in zip(ours.named_parameters(), twin.parameters(), strict=True):
        if mine.numel() >= LARGE:
            assert float(mine.detach().std()) == pytest.approx(float(other.detach().std()), rel=0.1), key
    ours.load_state_dict(twin.state_dict())
    with torch.no_grad():
        got_BK, wanted_BK = ours(image(2, SIDE)).logits_BK, twin(image(2, SIDE))
    torch.testing.assert_close(got_BK, wanted_BK, rtol=0, atol=2e-6 * float(wanted_BK.abs().max()))
