"""MobileNetV2 for Tiny-ImageNet beyond the golden numbers: the padded 1x1 stem, and a last layer stored as 1x1."""

import torch
import torch.nn.functional as F
from models.families import CLASSES, image, make
from torch import nn


def test_the_border_of_the_stem_does_not_see_the_image() -> None:
    network = make("tiny/mobilenetv2").eval()
    with torch.no_grad():
        first, second = (network(image(2, 64)[i : i + 1], features=True).features[0] for i in range(2))
    assert first.shape[-2:] == (66, 66)
    inside = torch.zeros(66, 66, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert torch.equal(first[..., ~inside], second[..., ~inside])
    assert not torch.equal(first[..., inside], second[..., inside])


def test_the_classifier_is_the_published_convolution() -> None:
    network = make("tiny/mobilenetv2")
    last = network.classifier
    assert isinstance(last, nn.Linear) and last.weight.shape == (CLASSES, 1280, 1, 1)
    assert (last.in_features, last.out_features) == (1280, CLASSES)
    pooled_BD = torch.randn(3, 1280)
    wanted = F.conv2d(pooled_BD[:, :, None, None], last.weight, last.bias).flatten(1)
    torch.testing.assert_close(last(pooled_BD), wanted)


def test_first_weights_are_those_of_a_convolution() -> None:
    bound = 1280**-0.5  # torch, for both: uniform(+-1 / sqrt(inputs))
    for layer in (make("tiny/mobilenetv2").classifier, nn.Conv2d(1280, CLASSES, 1)):
        assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_features_are_linear_but_for_the_first_and_the_last() -> None:
    output = make("tiny/mobilenetv2").train()(image(2, 64), features=True)
    assert [bool((m < 0).any()) for m in output.features] == [False, True, True, True, False]
    assert [m.shape[-1] for m in output.features] == [66, 33, 17, 9, 9]
    assert float(output.features[-1].detach().max()) <= 6.0
    assert output.preact_features == ()
    assert torch.equal(output.features[-1].mean(dim=(2, 3)), output.pooled_BD)
