"""Every method on every published pair: one step, or a refusal that the documentation tells of."""

import pytest
import torch
from methods.lab import METHODS, Bench, config_of

from pipeline.config import read_yaml
from pipeline.config.layers import CONFIGS
from pipeline.contracts import InputError, Shapes

PAIRS = list(read_yaml(CONFIGS / "pairs.yaml")["pairs"])
IMAGENET = {"ResNet34-ResNet18", "ResNet50-MobileNetV1", "ResNet50-ResNet18"}
CHEAP = ("resnet56-resnet20", "vgg13-vgg8", "wrn_40_2-ShuffleV1")
WIDE = ("kd", "reviewkd", "crd")  # of the logits, of the maps, with a bank


def widths(shapes: Shapes) -> list[int]:
    return [channels for channels, _, _ in shapes.features]


REFUSALS = {
    "fsp": lambda s, t: widths(s) != widths(t),
    "kdsvd": lambda s, t: widths(s)[1:] != widths(t)[1:],
    "ab": lambda s, t: len(s.features) != len(t.features),
    "ofd": lambda s, t: not s.preact or not t.preact,
}


def check(method: str, pair: str) -> None:
    dataset, side = ("folder", 128) if pair in IMAGENET else ("cifar100", 32)
    config = config_of(method, pair, dataset=dataset)
    try:
        bench = Bench(config, side=side)
    except InputError as error:
        plain = Bench(config_of("kd", pair, dataset=dataset), side=side).setting
        assert plain.teacher is not None
        assert method in REFUSALS and REFUSALS[method](plain.student, plain.teacher), error
        assert "\n" not in str(error)
        return
    bench.step.train()
    output = bench.run()
    assert bool(torch.isfinite(output.loss)) and all(bool(v.isfinite().all()) for v in output.terms.values())
    output.loss.backward()
    gradients = [p.grad for p in bench.student.parameters() if p.requires_grad and p.grad is not None]
    assert gradients and all(bool(g.isfinite().all()) for g in gradients)
    assert any(bool((g != 0).any()) for g in gradients)
    without = [name for name, p in bench.method.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"{method} owns parameters that get no gradient: {without}"


@pytest.mark.parametrize("pair", CHEAP)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_on_three_pairs(method: str, pair: str) -> None:
    check(method, pair)


@pytest.mark.parametrize("method", WIDE)
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair not in CHEAP])
def test_each_pair_with_three_methods(pair: str, method: str) -> None:
    check(method, pair)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair not in CHEAP])
@pytest.mark.parametrize("method", [method for method in METHODS if method not in WIDE])
def test_every_method_on_every_pair(method: str, pair: str) -> None:
    check(method, pair)
