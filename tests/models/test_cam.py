"""Networks in class-activation form: the same function, with the classes' maps as a further feature."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from pipeline.contracts import InputError, ModelOutput
from pipeline.models import MODELS
from pipeline.models.cam import FORMS, CamNetwork
from pipeline.models.common import Network

# One network for each way of finding the map: feature, its activation, a layer after the stages.
NAMES = ["resnet8", "vgg8", "shufflev1", "wrn_16_1", "cifar/mobilenetv2", "cifar/shufflev2"]


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = MODELS.get(name)(num_classes=7)
    nn.init.normal_(network.classifier.bias)
    return network


def image_of(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_function_with_maps(name: str) -> None:
    network = network_of(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wrapped = CamNetwork(deepcopy(network))
    assert isinstance(wrapped, Network)
    assert all(torch.equal(value, before[key]) for key, value in wrapped.state_dict().items())
    assert [*wrapped.state_dict()] == [*before]
    assert [n for n, _ in wrapped.named_parameters()] == [n for n, _ in network.named_parameters()]
    plain, found = network(image_of(), features=True), wrapped(image_of(), features=True)
    cam = found.features[-1]
    assert len(found.features) == len(plain.features) + 1 == len(wrapped.stage_channels) == len(wrapped.stages())
    assert cam.shape[:2] == (2, 7) and cam[0, 0].numel() > 1
    assert torch.allclose(cam.mean(dim=(2, 3)), plain.logits_BK, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found.logits_BK, plain.logits_BK, rtol=1e-4, atol=1e-5)
    assert torch.equal(wrapped.eval()(image_of()).logits_BK, wrapped.network(image_of()).logits_BK)


@pytest.mark.parametrize("name", ["resnet8", "cifar/mobilenetv2"])
def test_gradients_are_the_networks(name: str) -> None:
    network = network_of(name)
    wrapped = CamNetwork(deepcopy(network))
    for model in (network, wrapped):
        model.train()
        model(image_of(4), features=True).logits_BK.square().sum().backward()
    for (key, p), q in zip(network.named_parameters(), wrapped.parameters(), strict=True):
        assert q.grad is not None and torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-4), key
    for key, buffer in network.named_buffers():
        assert torch.allclose(wrapped.state_dict()[key].float(), buffer.float(), atol=1e-6), key


def test_without_bias_the_network_alone_computes_the_same() -> None:
    network = network_of("resnet8")
    wrapped = FORMS["cam_without_bias"](network).eval()
    logits = wrapped(image_of(), features=True).logits_BK
    assert not network.classifier.bias.requires_grad and network.classifier.bias.count_nonzero() == 0
    assert torch.allclose(network(image_of()).logits_BK, logits, rtol=1e-4, atol=1e-5)


def test_mode_and_copies() -> None:
    wrapped = CamNetwork(network_of("cifar/mobilenetv2").train())
    assert wrapped.training and wrapped.network.training
    wrapped.eval()
    assert not wrapped.network.training and not any(m.training for m in wrapped.modules())
    wrapped(image_of())
    twin = deepcopy(wrapped)
    nn.init.zeros_(twin.classifier.weight)
    nn.init.zeros_(twin.classifier.bias)
    assert twin(image_of(), features=True).features[-1].abs().max() == 0
    assert wrapped(image_of(), features=True).features[-1].abs().max() > 0
    assert twin.double()(image_of().double(), features=True).logits_BK.dtype == torch.float64


def test_one_graph() -> None:
    torch._dynamo.reset()
    wrapped = CamNetwork(network_of("cifar/mobilenetv2")).eval()
    wanted = wrapped(image_of(), features=True)
    found = torch.compile(wrapped, fullgraph=True, backend="eager")(image_of(), features=True)
    assert torch.allclose(found.features[-1], wanted.features[-1]) and torch.allclose(found[0], wanted[0])


def test_no_map_no_form() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(12, 7)

        def forward(self, image_BCHW: torch.Tensor, features: bool = False) -> ModelOutput:
            pooled_BD = image_BCHW[:, :, :2, :2].flatten(1)
            return ModelOutput(self.classifier(pooled_BD), pooled_BD)

    with pytest.raises(InputError, match="Flat has no class activation maps"):
        CamNetwork(Flat())
