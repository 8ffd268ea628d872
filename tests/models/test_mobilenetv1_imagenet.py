"""MobileNet for ImageNet beyond the golden numbers: features without a stem."""

import torch
import torch.nn.functional as F
from models.families import image, make


def test_features_are_the_activated_bn_outputs() -> None:
    network = make("mobilenetv1").train()
    output = network(image(2, 64), features=True)
    for post_BCHW, preact_BCHW in zip(output.features, output.preact_features, strict=True):
        assert torch.equal(F.relu(preact_BCHW), post_BCHW) and bool((preact_BCHW < 0).any())
    assert [m.shape[-1] for m in output.features] == [16, 8, 4, 2]
    assert network.stage_channels == [128, 256, 512, 1024]
    assert torch.equal(output.features[-1].mean(dim=(2, 3)), output.pooled_BD)


def test_it_is_its_layers_one_after_the_other() -> None:
    """The forward pass cuts the last ReLU off four layers and applies it itself."""
    network = make("mobilenetv1").eval()
    with torch.no_grad():
        output = network(image(2, 64), features=True)
        x_BCHW, found = image(2, 64), []
        for layer in network.model:
            x_BCHW = layer(x_BCHW)
            found.append(x_BCHW)
        assert torch.equal(network.fc(x_BCHW.mean(dim=(2, 3))), output.logits_BK)
    assert all(torch.equal(found[i], m) for i, m in zip((3, 5, 11, 13), output.features, strict=True))


def test_initial_weights_are_torchs_defaults() -> None:
    bound = 1024**-0.5  # a 1x1 convolution: uniform(+-1 / sqrt(inputs))
    largest = float(make("mobilenetv1").model[13][3].weight.detach().abs().max())
    assert 0.999 * bound < largest <= bound
