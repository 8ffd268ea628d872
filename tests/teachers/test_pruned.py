"""A teacher averaged with its pruned copy."""

import contextlib
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.contracts import Batch, Signal
from pipeline.models import MODELS
from pipeline.teachers import TEACHERS
from pipeline.teachers.pruned import PrunedTeacher, prune_l1


def network_of() -> nn.Module:
    torch.manual_seed(0)
    return MODELS.get("resnet8")(num_classes=7)


def batch_of(rows: int) -> Batch:
    image = torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batch(image_BCHW=image, label_B=torch.arange(rows), index_B=torch.arange(rows))


def teacher_of(network: nn.Module, **options: Any) -> PrunedTeacher:
    make = partial(PrunedTeacher, lambda: network, needs=Signal.LOGITS, autocast=contextlib.nullcontext)
    return make(**options)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_the_smallest_of_each_layer_are_zero(rate: float) -> None:
    network = network_of()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pruned = prune_l1(network, rate)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for (name, layer), (_, old) in zip(pruned.named_modules(), network.named_modules(), strict=True):
        for key, value in layer.named_parameters(recurse=False):
            was = getattr(old, key)
            kept = torch.ones_like(was, dtype=torch.bool)
            if key == "weight" and isinstance(layer, nn.Conv2d | nn.Linear):
                ranks = was.abs().flatten().argsort().argsort().view_as(was)
                kept = ranks >= round(rate * was.numel())
            assert torch.equal(value, was * kept), f"{name}.{key}"


def test_the_mean_of_two() -> None:
    network, batch = network_of(), batch_of(5)
    found = teacher_of(network, rate=0.4, weight=0.6)(batch)
    network.eval()
    one, two = (n(batch.image_BCHW).logits_BK for n in (network, prune_l1(network, 0.4)))
    assert not torch.allclose(one, two, rtol=0.01)
    assert torch.allclose(found.logits_BK, 0.6 * one + 0.4 * two, atol=1e-6) and not found.logits_BK.requires_grad
    assert found.features == () and torch.equal(found.pooled_BD, network(batch.image_BCHW).pooled_BD)
    assert TEACHERS.get("pruned") is PrunedTeacher


def test_batch_statistics_see_the_batch() -> None:
    batch = batch_of(6)
    first = Batch(image_BCHW=batch.image_BCHW[:2], label_B=batch.label_B[:2], index_B=batch.index_B[:2])
    for batch_statistics, alike in ((False, True), (True, False)):
        teacher = teacher_of(network_of(), batch_statistics=batch_statistics)
        whole, part = teacher(batch).logits_BK[:2], teacher(first).logits_BK
        assert torch.allclose(whole, part, atol=1e-5) is alike
        assert torch.equal(teacher(batch).logits_BK[:2], whole)  # drifting statistics are never read
        assert not teacher.network.training and teacher.pruned.training is batch_statistics
