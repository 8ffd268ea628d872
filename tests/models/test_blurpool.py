"""BlurPool against ffcv-imagenet's layer, written out: a fixed depthwise filter before each strided convolution."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.contracts import InputError
from pipeline.deployment.inference import count_flops
from pipeline.models.blurpool import blurred
from pipeline.models.build import build


class FilterThenConvolve(nn.Module):
    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        channels = convolution.in_channels
        self.filter = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False).double()
        self.filter.weight.data = (
            torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).repeat(channels, 1, 1, 1).double() / 16
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.convolution(self.filter(x_BCHW))
        return out


def wrapped(network: nn.Module) -> nn.Module:
    """As ffcv-imagenet's apply_blurpool."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and child.in_channels >= 16:
            setattr(network, name, FilterThenConvolve(child))
        else:
            wrapped(child)
    return network


def image(side: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_filter_is_the_binomial_one() -> None:
    x_BCHW = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    padded = torch.zeros(2, 3, 6, 7, dtype=torch.float64)
    padded[:, :, 1:-1, 1:-1] = x_BCHW
    wanted = torch.zeros_like(x_BCHW)
    for i in range(3):
        for j in range(3):
            wanted += (2 - abs(i - 1)) * (2 - abs(j - 1)) / 16 * padded[:, :, i : i + 4, j : j + 5]
    torch.testing.assert_close(blurred(x_BCHW), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("imagenet/resnet18", 6),
        ("imagenet/resnet50", 6),
        ("mobilenetv1", 4),
        ("resnet8", 4),
        ("torchvision:resnet18", 6),
    ],
)
def test_networks_compute_what_the_wrapped_ones_do(name: str, count: int) -> None:
    torch.manual_seed(0)
    plain = build(name, num_classes=5).double()
    torch.manual_seed(0)
    network = build(name, num_classes=5, blurpool=True).double()
    assert list(network.state_dict()) == list(plain.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    reference = copy.deepcopy(plain)
    wrapped(getattr(reference, "library", reference))
    assert sum(isinstance(module, FilterThenConvolve) for module in reference.modules()) == count
    x_BCHW = image(64)
    with torch.no_grad():  # in training mode: first weights alone let the signal of deep networks die
        found, wanted, without = (net(x_BCHW).logits_BK for net in (network, reference, plain))
        twin = copy.deepcopy(network)(x_BCHW).logits_BK
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert torch.equal(twin, found) and not torch.allclose(without, wanted, rtol=1e-3)


def test_memory_layout_and_gradient() -> None:
    torch.manual_seed(0)
    plain = build("imagenet/resnet18", num_classes=5, blurpool=True).double()
    nhwc = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_BCHW = image(64)
    outputs = plain(x_BCHW, features=True), nhwc(x_BCHW.to(memory_format=torch.channels_last), features=True)
    for one, other in zip(outputs[0].features, outputs[1].features, strict=True):
        assert other.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    for output in outputs:
        output.logits_BK.square().sum().backward()
    gradients = [net.layer2[0].conv1.weight.grad for net in (plain, nhwc)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_half_precision_runs_under_autocast() -> None:
    network = build("resnet8", num_classes=5, blurpool=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image(32).float())
    assert output.logits_BK.dtype == torch.bfloat16 and output.logits_BK.isfinite().all()


def test_flops_of_the_filters_are_counted() -> None:
    flops = [count_flops(build("imagenet/resnet18", num_classes=5, blurpool=on), 64) for on in (False, True)]
    maps = [(64, 16), (128, 8), (256, 4)]  # what enters the three strided stages; twice: the shortcut too
    assert flops[1] - flops[0] == sum(2 * 2 * 9 * channels * math.prod([side, side]) for channels, side in maps)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet8", {"blurpool": True, "block": "acb"}, "blurpool=true needs plain convolutions"),
        ("vgg8", {"blurpool": True}, "has no strided convolution to blur: use student.args.blurpool=false"),
        ("resnet8", {"blurpool": "yes"}, "option blurpool='yes'"),
        ("torchvision:resnet18", {"blurpool": 1}, "option blurpool=1"),
    ],
)
def test_refusals(name: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        build(name, num_classes=5, **options)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert build(name, num_classes=5, blurpool=False)
