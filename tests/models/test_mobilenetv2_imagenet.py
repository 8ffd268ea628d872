"""MobileNetV2 for ImageNet beyond the golden numbers: torchvision's own network, dropout, and the key classifier.1."""

import copy

import pytest
import torch
from models.families import CLASSES, image, make
from models.twins import check_twins
from torch import nn

from pipeline.models.build import build

NAME = "imagenet/mobilenetv2"


def test_torchvisions_weights_give_torchvisions_logits() -> None:
    check_twins(NAME, "mobilenet_v2")


def test_features_are_linear_but_for_the_stem() -> None:
    output = make(NAME).train()(image(2, 64), features=True)
    assert [bool((m < 0).any()) for m in output.features] == [False, True, True, True, True]
    assert [m.shape[-1] for m in output.features] == [32, 16, 8, 4, 2]
    assert output.preact_features == () and output.pooled_BD.shape == (2, 1280)


@pytest.mark.parametrize("rate", (0.0, 0.2, 0.5))
def test_dropout_is_between_pooled_vector_and_classifier(rate: float) -> None:
    torch.manual_seed(0)
    network = build(NAME, num_classes=CLASSES, dropout=rate).train()
    seen: list[torch.Tensor] = []
    network.classifier.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    pooled_BD = network(image(64, 32)).pooled_BD
    dropped = (seen[0] == 0) & (pooled_BD != 0)
    assert float(dropped.sum() / (pooled_BD != 0).sum()) == pytest.approx(rate, abs=0.01)
    torch.testing.assert_close(seen[0][~dropped], pooled_BD[~dropped] / (1 - rate))


def test_first_weights_of_the_classifier() -> None:
    last = make(NAME).classifier
    assert float(last.weight.detach().std()) == pytest.approx(0.01, rel=0.05) and not last.bias.any()


def test_the_property_classifier_hides_no_key() -> None:
    """torch.export and functional_call look parameters up attribute by attribute."""
    network = make(NAME).eval()
    state = network.state_dict()
    with torch.no_grad():
        wanted = network(image(2, 64)).logits_BK
        called = torch.func.functional_call(network, {k: v.clone() for k, v in state.items()}, (image(2, 64),))
        assert torch.equal(called.logits_BK, wanted)
        twin = copy.deepcopy(network)
        nn.init.zeros_(twin.classifier.weight)
        assert torch.equal(network(image(2, 64)).logits_BK, wanted)
        assert torch.equal(twin(image(2, 64)).logits_BK, twin.classifier.bias.expand(2, -1))
    assert network.get_parameter("classifier.1.weight") is network.classifier.weight
    keys = [key for key, _ in network.named_parameters() if key.startswith("classifier")]
    assert keys == ["classifier.1.weight", "classifier.1.bias"]
    torch.export.export(network, (image(1, 32),))
