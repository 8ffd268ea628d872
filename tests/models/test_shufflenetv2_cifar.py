"""ShuffleNet V2 for CIFAR beyond the golden numbers: the shuffle, and pre-activations that are not shuffled."""

import pytest
import torch
import torch.nn.functional as F
from models.families import image, make

from pipeline.models.shufflenetv2_cifar import interleaved


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_interleaved_is_the_shuffle_in_two_groups(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    left, right = (torch.randn(2, 5, 3, 4).to(memory_format=layout) for _ in range(2))
    got = interleaved(left, right)
    for channel in range(10):
        source = (left, right)[channel % 2]
        assert torch.equal(got[:, channel], source[:, channel // 2])
    assert torch.equal(got, F.channel_shuffle(torch.cat((left, right), 1), 2))
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_preactivations_are_the_features_before_relu_and_shuffle() -> None:
    output = make("shufflev2_0_2").train()(image(2, 32), features=True)
    assert output.preact_features[0] is output.features[0]
    for post_BCHW, preact_BCHW in zip(output.features[1:], output.preact_features[1:], strict=True):
        first, second = preact_BCHW.chunk(2, dim=1)
        assert torch.equal(interleaved(first, F.relu(second)), post_BCHW)
        assert torch.equal(F.relu(preact_BCHW).sum(dim=1) > 0, post_BCHW.sum(dim=1) > 0)
        assert bool((second < 0).any()) and bool((first >= 0).all())
    assert [m.shape[-1] for m in output.features] == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("shufflev2_0_2", [24, 40, 80, 160]),
        ("shufflev2_0_5", [24, 48, 96, 192]),
        ("cifar/shufflev2", [24, 116, 232, 464]),
        ("shufflev2_1_5", [24, 176, 352, 704]),
        ("shufflev2_2_0", [24, 224, 488, 976]),
    ],
)
def test_widths(name: str, widths: list[int]) -> None:
    assert make(name).stage_channels == widths


def test_initial_weights_are_torchs_defaults() -> None:
    bound = 464**-0.5  # a 1x1 convolution: uniform(+-1 / sqrt(inputs))
    largest = float(make("cifar/shufflev2").conv2.weight.detach().abs().max())
    assert 0.999 * bound < largest <= bound
