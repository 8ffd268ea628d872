"""method=a+b: settings, terms, refusals."""

import pytest
import torch
from methods.lab import Bench, config_of

from pipeline.config import ConfigError
from pipeline.contracts import InputError

PAIR = "resnet20-resnet8"


def test_weights_lie_under_the_parts_and_cross_entropy_is_counted_once() -> None:
    config = config_of("kd+rkd", PAIR, "method_args.kd.kd_weight=2", "method_args.kd.ce_weight=1")
    assert config.method == "kd+rkd" and config.method_args["kd"]["kd_weight"] == 2
    assert "ce_weight" in config.method_args["rkd"] or "rkd" in config.method_args
    terms = Bench(config, side=16).run().terms
    assert sum(name == "ce" for name in terms) == 1
    assert {name.partition(".")[0] for name in terms} == {"ce", "kd", "rkd"}
    alone = Bench(config_of("kd", PAIR, "method_args.kd_weight=2", "method_args.ce_weight=1"), side=16).run().terms
    assert torch.equal(alone["kd"], terms["kd.kd"]) and torch.equal(alone["ce"], terms["ce"])


def test_published_combinations() -> None:
    assert config_of("kd+crd", PAIR).method_args["kd"] == {"T": 4.0, "ce_weight": 1.0, "kd_weight": 1.0}
    dkd = config_of("lskd+dkd", PAIR).method_args["dkd"]
    assert (dkd["standardise"], dkd["T"], dkd["alpha"], dkd["beta"]) == (True, 2.0, 9.0, 72.0)
    dot = config_of("dkd+dot", PAIR)
    assert (dot.optim.name, dot.optim.dot_delta) == ("dot", 0.075)


def test_aliases_and_per_pair_values_reach_the_parts() -> None:
    config = config_of("similarity+dkd", "resnet56-resnet20")
    assert config.method == "sp+dkd" and config.method_args["dkd"]["beta"] == 2.0


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("kd+rkdd", (), "unknown method 'rkdd'"),
        ("kd+rkd", ("method_args.T=2",), "unknown key 'method_args.T'"),
        ("kd+rkd", ("method_args.kd.TT=2",), "unknown key 'method_args.kd.TT'"),
    ],
)
def test_mistakes(method: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(method, PAIR, *words)
    assert message in "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("method", "message"),
    [("dot", "only changes other methods"), ("lskd+crd", "nothing to change in crd"), ("ab+fsp", "first stage")],
)
def test_refused(method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Bench(config_of(method, PAIR), side=16)


def test_parts_learn_from_their_own_digests() -> None:
    energies, alone = (Bench(config_of(name, PAIR), side=16).method for name in ("energykd+heda", "heda"))
    logits_NK = torch.randn(64, 100, generator=torch.Generator().manual_seed(1))
    for method in (energies, alone):
        method.learn(method.digest(logits_NK), torch.zeros(64, dtype=torch.int64))
    assert energies.digest(logits_NK).shape == (64, 2)
    assert torch.equal(energies.methods[1].bands.low, alone.bands.low) and alone.bands.low.isfinite()


def test_the_papers_crd_weighs_its_negatives_by_their_number() -> None:
    weight = [config_of("crd", PAIR, f"variant={v}").method_args["feat_weight"] for v in ("original", "paper")]
    assert weight == [0.8, pytest.approx(0.8 / 16384, rel=0.03)]
