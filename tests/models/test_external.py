"""timm:NAME and torchvision:NAME against the libraries' own networks."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.contracts import InputError, ModelOutput
from pipeline.models.common import Network
from pipeline.models.external import External, build_external

CLASSES = 10
VIT: dict[str, Any] = {"img_size": 64}
SWIN = VIT | {"window_size": 4, "embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SWIN |= {"drop_path_rate": 0.0}
# name -> options, then the side and the channels of each feature of images of 64 pixels
NETWORKS: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {
    "torchvision:resnet18": ({}, [32, 16, 8, 4, 2], [64, 64, 128, 256, 512]),
    "torchvision:mobilenet_v3_small": ({}, [32, 16, 8, 4, 2], [16, 16, 24, 48, 576]),
    "torchvision:shufflenet_v2_x0_5": ({}, [32, 8, 4, 2], [24, 48, 96, 1024]),
    "torchvision:squeezenet1_1": ({}, [31, 15, 7, 3], [64, 128, 256, 512]),
    "torchvision:googlenet": ({}, [32, 16, 8, 4, 2], [64, 192, 480, 832, 1024]),
    "torchvision:densenet121": ({}, [32, 16, 8, 4, 2], [64, 256, 512, 1024, 1024]),
    "timm:resnet14t": ({}, [32, 16, 8, 4, 2], [64, 256, 512, 1024, 2048]),
    "timm:regnetx_002": ({}, [32, 16, 8, 4, 2], [32, 24, 56, 152, 368]),
    "timm:convnext_atto": ({"depths": (1, 1, 1, 1)}, [16, 16, 8, 4, 2], [40, 40, 80, 160, 320]),
    "timm:test_efficientnet": ({}, [32, 16, 8, 4, 2], [16, 24, 32, 48, 256]),
    "timm:test_nfnet": ({}, [32, 16, 8, 4, 2], [64, 32, 64, 96, 192]),
    "timm:test_vit": (VIT, [4] * 5, [64] * 5),
    "timm:deit_tiny_distilled_patch16_224": (VIT | {"depth": 4}, [4] * 5, [192] * 5),
    "timm:swin_tiny_patch4_window7_224": (SWIN, [16, 16, 8, 4, 2], [24, 24, 48, 96, 192]),
    "timm:mixer_s16_224": (VIT, [4] * 5, [512] * 5),
}
TRACED = [
    "timm:test_efficientnet",
    "torchvision:squeezenet1_1",
    "timm:regnetx_002",
    "timm:convnext_atto",
    "timm:test_vit",
    "timm:swin_tiny_patch4_window7_224",
]
LARGE = ("torchvision:densenet121", "timm:resnet14t", "timm:mixer_s16_224")
QUICK = [name for name in NETWORKS if name not in LARGE]
TWO_HEADS, POOLING_LAST = "timm:deit_tiny_distilled_patch16_224", "torchvision:squeezenet1_1"


def build(name: str) -> External:
    torch.manual_seed(0)
    return build_external(name, num_classes=CLASSES, **NETWORKS[name][0])


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def first_sizes(output: ModelOutput) -> list[int]:
    return [map_BCHW.shape[2] for map_BCHW in output.features]


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_features_and_keys_are_the_librarys(name: str) -> None:
    network = build(name).eval()
    with torch.no_grad():
        wanted_BK = network.library(image())
        full, plain = network(image(), features=True), network(image())
    assert isinstance(network, Network) and network.bn_before_relu() == []
    assert torch.equal(full.logits_BK, wanted_BK) and torch.equal(plain.logits_BK, wanted_BK)
    assert plain.features == plain.preact_features == full.preact_features == ()
    assert torch.equal(plain.pooled_BD, full.pooled_BD)

    _, sides, channels = NETWORKS[name]
    assert [tuple(m.shape) for m in full.features] == [
        (2, c, side, side) for c, side in zip(network.stage_channels, sides, strict=True)
    ]
    assert network.stage_channels == channels
    assert list(network.state_dict()) == list(network.library.state_dict())
    assert [key for key, _ in network.named_parameters()] == [key for key, _ in network.library.named_parameters()]
    assert [key for key, _ in network.named_buffers()] == [key for key, _ in network.library.named_buffers()]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in (TWO_HEADS, POOLING_LAST)])
def test_classifier_maps_pooled_to_logits(name: str) -> None:
    network = build(name).eval()
    output = network(image())
    assert isinstance(network.classifier, nn.Linear)
    assert torch.equal(network.classifier(output.pooled_BD), output.logits_BK)
    assert any(network.classifier.weight is p for p in network.parameters())
    assert (network.classifier.in_features, network.classifier.out_features) == (output.pooled_BD.shape[1], CLASSES)


def test_a_classifier_that_is_a_convolution() -> None:
    network = build_external("timm:dpn48b", num_classes=CLASSES).eval()
    output = network(image())
    assert isinstance(network.library.get_submodule("classifier"), nn.Conv2d)
    torch.testing.assert_close(network.classifier(output.pooled_BD), output.logits_BK)  # other sums: not bit for bit
    assert network.classifier.weight.data_ptr() == network.library.get_parameter("classifier.weight").data_ptr()


@pytest.mark.parametrize("name", (TWO_HEADS, POOLING_LAST))
def test_a_head_that_is_no_linear_classifier_says_so(name: str) -> None:
    network = build(name)
    assert network(image()).pooled_BD.ndim == 2
    with pytest.raises(InputError, match=f"{name} has no linear classifier"):
        network.classifier(torch.zeros(1, 1))
    with pytest.raises(InputError, match=f"{name} has no linear classifier"):
        _ = network.classifier.weight


@pytest.mark.parametrize("name", QUICK)
def test_feature_depends_on_its_stages_and_no_later_one(name: str) -> None:
    network = build(name).eval()
    stages = network.stages()
    held = [id(p) for stage in stages for p in stage.parameters()]
    assert len(stages) == len(network.stage_channels) and all(list(stage.parameters()) for stage in stages)
    assert len(held) == len(set(held)) and set(held) < {id(p) for p in network.parameters()}
    for i in range(len(stages)):
        network.zero_grad()
        network(image(), features=True).features[i].square().sum().backward()
        touched = [{p.grad is not None for p in stage.parameters()} for stage in network.stages()]
        assert touched == [{j <= i} for j in range(len(stages))]


@pytest.mark.parametrize("name", QUICK)
def test_asking_for_features_changes_no_statistic_and_no_gradient(name: str) -> None:
    states, gradients = [], []
    for features in (False, True):
        network = build(name).train()
        torch.manual_seed(2)
        network(image(), features=features).logits_BK.square().sum().backward()
        states.append(network.state_dict())
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
    assert all(g is not None for g in gradients[0])  # DDP waits for ever for a parameter that has none
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert network.kept.head_input is None and network.kept.maps == {}


@pytest.mark.parametrize("name", TRACED)
def test_traces_as_one_graph(name: str) -> None:
    network = build(name).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch._dynamo.reset()
    got = torch.compile(network, fullgraph=True, backend="aot_eager")(image(), features=True)
    wanted = network(image(), features=True)
    scale = float(wanted.logits_BK.detach().abs().max())
    torch.testing.assert_close(got.logits_BK, wanted.logits_BK, rtol=1e-3, atol=1e-4 * scale)
    assert first_sizes(got) == first_sizes(wanted)
    sum((m.square().mean() for m in got.features), got.logits_BK.sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", TRACED)
def test_channels_last_and_one_image(name: str) -> None:
    network = build(name).eval()
    with torch.no_grad():
        batch, single = network(image(), features=True), network(image()[:1])
        network.to(memory_format=torch.channels_last)
        last = network(image().contiguous(memory_format=torch.channels_last), features=True)
    torch.testing.assert_close(single.logits_BK, batch.logits_BK[:1], rtol=1e-4, atol=1e-5)
    for got, wanted in zip([last.logits_BK, *last.features], [batch.logits_BK, *batch.features], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", TRACED)
def test_a_copy_is_independent_and_a_reload_equal(name: str) -> None:
    network = build(name).eval()
    twin = copy.deepcopy(network)
    other = build_external(name, num_classes=CLASSES, **NETWORKS[name][0]).eval()
    other.load_state_dict({key: value.clone() for key, value in network.state_dict().items()})
    with torch.no_grad():
        wanted = network(image(), features=True)
        for p in network.parameters():
            p.zero_()
        for copied in (twin, other):
            got = copied(image(), features=True)
            assert torch.equal(got.logits_BK, wanted.logits_BK) and torch.equal(got.features[-1], wanted.features[-1])
        assert not network(image(), features=True).features[-1].equal(wanted.features[-1])


class LogitsOnly(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image).logits_BK


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "timm:convnext_atto", POOLING_LAST])
def test_exports_although_a_child_is_called_stages_or_classifier(name: str) -> None:
    network = LogitsOnly(build(name)).eval()
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(network, (image(),), dynamic_shapes={"image": {0: batch}})
        traced = torch.jit.trace(network, (image(),), check_trace=False)
        for run in (program.module(), traced):
            torch.testing.assert_close(run(image(3)), network(image(3)), rtol=1e-4, atol=1e-5)


def test_tokens_of_an_oblong_image_lie_on_an_oblong_map() -> None:
    network = build_external("timm:test_vit", num_classes=CLASSES, img_size=(32, 64)).eval()
    output = network(image()[:, :, :32], features=True)
    assert [tuple(m.shape[2:]) for m in output.features] == [(2, 4)] * 5
    tokens_BNC = network.library.forward_features(image()[:, :, :32])
    last_BCHW = network.library.norm(output.features[-1].flatten(2).transpose(1, 2))
    torch.testing.assert_close(last_BCHW, tokens_BNC[:, 1:])


def test_hooks_follow_a_replaced_module() -> None:
    network = build("torchvision:shufflenet_v2_x0_5").eval()
    wanted = network(image(), features=True).features[0]
    path = network.anatomy.taps[0].path
    network.library.set_submodule(path, copy.deepcopy(network.get_submodule(path)))
    network.get_submodule(
        path
    )._forward_hooks.clear()  # what nn.SyncBatchNorm.convert_sync_batchnorm does to those of a batch norm
    network.eval()
    assert torch.equal(network(image(), features=True).features[0], wanted)
