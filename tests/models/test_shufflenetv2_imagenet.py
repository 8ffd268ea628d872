"""ShuffleNet V2 for ImageNet: torchvision's own network, and the features that SimKD's forward names."""

import torch
import torch.nn.functional as F
from models.families import image, make
from models.twins import check_twins

NAME = "imagenet/shufflev2"


def test_torchvisions_weights_give_torchvisions_logits() -> None:
    check_twins(NAME, "shufflenet_v2_x1_0")


def test_features() -> None:
    network = make(NAME).eval()
    with torch.no_grad():
        output = network(image(2, 64), features=True)
        x_BCHW = F.max_pool2d(network.conv1(image(2, 64)), 3, 2, 1)
        found = [x_BCHW, network.stage2(x_BCHW), network.stage3(network.stage2(x_BCHW))]
        found.append(network.conv5(network.stage4(found[2])))
    assert all(torch.equal(a, b) for a, b in zip(found, output.features, strict=True))
    assert [m.shape[-1] for m in output.features] == [16, 8, 4, 2]
    assert network.stage_channels == [24, 116, 232, 1024]
    assert torch.equal(output.features[-1].mean(dim=(2, 3)), output.pooled_BD)
    assert output.preact_features == () and network.bn_before_relu() == []
