"""Presets of LSKD, MLKD and CTKD: what the authors ran for each pair of their tables.

Typed by hand from the official files, never from what is composed here: names of the logs that LSKD's README links, its
configs/ and tools/train.py (alpha, beta = the configuration's times the weight), CTKD/scripts and logs/CTKD;
configs/ of Jin-Ying/Multi-Level-Logit-Distillation; scripts/ of zhengli97/CTKD.
"""

from typing import NamedTuple

import pytest
from making import make, steps, weights

from pipeline.config import TrainConfig

END, THERE = (150, 180, 210), (30, 60, 90)  # milestones on CIFAR and on ImageNet


class Row(NamedTuple):
    """A pair of LSKD's tables. kd: T, weight; dkd: T, alpha, beta; mlkd: weight (T is 2), then its rate and epochs.

    rate: of all but MLKD; own_beta: of plain DKD; own_mlkd: rate and epochs of MLKD's own code, where it has the pair.
    """

    kd: tuple[float, float]
    dkd: tuple[float, float, float]
    mlkd: tuple[float, float, int]
    rate: float
    own_beta: float
    own_mlkd: tuple[float, int] | None


CIFAR = {
    "r32x4_r8x4": Row((2, 9), (2, 9, 72), (9, 0.025, 480), 0.05, 8, (0.025, 240)),
    "vgg13-vgg8": Row((3, 9), (2, 15, 30), (6, 0.01, 480), 0.05, 6, (0.025, 240)),
    "wrn40_2_wrn40_1": Row((2, 9), (2, 12, 24), (9, 0.025, 480), 0.05, 6, (0.025, 240)),
    "WRN-40-2/WRN-16-2": Row((2, 9), (2, 12, 24), (9, 0.025, 480), 0.05, 6, (0.025, 240)),
    "res56_res20": Row((2, 9), (3, 18, 36), (9, 0.025, 480), 0.05, 2, (0.025, 240)),
    "r110_r32": Row((2, 9), (2, 15, 30), (9, 0.025, 480), 0.05, 2, (0.025, 240)),
    "resnet110_resnet20": Row((4, 12), (2, 15, 30), (9, 0.025, 480), 0.05, 8, None),
    "res32x4_shuv2": Row((2, 9), (2, 9, 72), (6, 0.01, 960), 0.01, 8, (0.01, 960)),
    "r32x4_wrn16_2": Row((3, 9), (2, 9, 18), (9, 0.025, 480), 0.05, 8, None),
    "resnet32x4-wrn_40_2": Row((3, 9), (2, 9, 72), (9, 0.025, 480), 0.05, 8, None),
    "wrn40_2_r8x4": Row((2, 9), (2, 18, 36), (9, 0.025, 480), 0.05, 8, None),
    "wrn_40_2-mv2": Row((3, 9), (2, 15, 30), (9, 0.005, 480), 0.01, 8, None),
    "vgg13_mv2": Row((3, 9), (3, 9, 18), (6, 0.01, 480), 0.01, 6, (0.01, 480)),
    "r50_mv2": Row((3, 1), (2, 15, 30), (9, 0.01, 480), 0.01, 8, (0.01, 480)),
    # Of the code, without a log: the README's command.
    "r32x4_shuv1": Row((2, 9), (2, 9, 72), (9, 0.01, 960), 0.01, 8, (0.01, 960)),
    "wrn40_2_shuv1": Row((2, 9), (2, 9, 72), (9, 0.01, 480), 0.01, 8, (0.01, 480)),
    "r32x4_vgg8": Row((2, 9), (2, 9, 72), (9, 0.025, 480), 0.05, 8, None),
}
LOSS = ("ce_weight", "kd_weight")


def part(config: TrainConfig, name: str, *keys: str) -> list[float]:
    """Values of a part's method_args."""
    return [config.method_args[name][key] for key in keys]


@pytest.mark.parametrize("pair", CIFAR)
def test_cifar_100(pair: str) -> None:
    def of(method: str, *more: str) -> TrainConfig:
        return make("dataset=cifar100", f"pair={pair}", f"method={method}", *more)

    row = CIFAR[pair]
    usual = (64, row.rate, 240, END)
    kd, dkd, mlkd, ctkd = of("lskd"), of("lskd+dkd"), of("mlkd+lskd"), of("lskd+ctkd")
    assert weights(kd, "T", *LOSS) == [row.kd[0], 0.1, row.kd[1]]
    assert part(dkd, "dkd", "T", "alpha", "beta", "ce_weight", "warmup") == [*row.dkd, 1, 20]
    assert part(mlkd, "mlkd", "T", *LOSS) == [2, 0.1, row.mlkd[0]]
    assert part(mlkd, "mlkd", "further_T") == [[2, 3, 5, 6]]
    assert part(ctkd, "ctkd", "t_start", *LOSS, "decay_loops") == [2, 0.1, 9, 10]
    assert [c.recipe for c in (kd, dkd, mlkd, ctkd)] == ["lskd"] * 4
    assert [c.method_args[name]["standardise"] for c, name in ((dkd, "dkd"), (mlkd, "mlkd"), (ctkd, "ctkd"))] == [1] * 3
    assert [steps(c) for c in (kd, dkd, ctkd)] == [usual] * 3
    assert steps(mlkd) == steps(of("mlkd", "recipe=lskd")) == (64, *row.mlkd[1:], END)
    # Beside them, the methods alone.
    plain, curriculum = of("kd"), of("ctkd")
    assert weights(plain, "T", *LOSS) == weights(of("kd", "recipe=lskd"), "T", *LOSS) == [4, 0.1, 0.9]
    assert weights(curriculum, "t_start", "t_range", *LOSS, "decay_loops") == [1, 20, 0.1, 0.9, 10]
    assert weights(of("dkd"), "T", "alpha", "beta", "ce_weight") == [4, 1, row.own_beta, 1]
    assert steps(plain) == steps(curriculum) == usual
    if row.own_mlkd is not None:
        assert steps(of("mlkd")) == (64, *row.own_mlkd, END)
        assert weights(of("mlkd"), "T", *LOSS) == [4, 0.1, 0.9]


IMAGENET = {  # pair: CE of kd and lskd, beta of lskd+dkd, beta of dkd, rate of MLKD
    "r34_r18": (1.0, 4.5, 0.5, 0.1),
    "r50_mv1": (0.5, 18.0, 2.0, 0.2),
}


@pytest.mark.parametrize("dataset", ["imagenet", "folder"])
@pytest.mark.parametrize("pair", IMAGENET)
def test_imagenet(pair: str, dataset: str) -> None:
    def of(method: str, *more: str) -> TrainConfig:
        return make(f"dataset={dataset}", f"pair={pair}", f"method={method}", *more)

    ce, beta, own_beta, rate = IMAGENET[pair]
    kd, dkd, mlkd, ctkd = of("lskd"), of("dkd+lskd"), of("mlkd+lskd"), of("ctkd+lskd")
    assert weights(kd, "T", *LOSS) == [2, ce, 9]
    assert part(dkd, "dkd", "T", "alpha", "beta", "ce_weight", "warmup") == [2, 9, beta, 1, 1]
    assert part(mlkd, "mlkd", "T", *LOSS) == [2, 0.5, 9]
    assert part(ctkd, "ctkd", "t_start", "t_range", *LOSS, "decay_loops") == [1, 20, 1, 2, 5]
    assert steps(kd) == steps(dkd) == (512, 0.2, 100, THERE)
    assert steps(mlkd) == (512, rate, 100, THERE)
    assert steps(ctkd) == steps(of("ctkd")) == (256, 0.1, 120, THERE)
    assert weights(of("ctkd"), "t_start", "t_range", *LOSS, "decay_loops") == [1, 20, 1, 1, 5]
    assert weights(of("kd", "recipe=lskd"), "T", *LOSS) == [1, ce, 0.5]
    assert weights(of("dkd"), "T", "alpha", "beta") == [1, 1, own_beta]
    assert weights(of("mlkd"), "T", *LOSS) == [1, 0.5, 0.5]
    for recipe in ("mlkd", "lskd", "mdistiller", "dot", "catkd"):
        assert steps(of("mlkd", f"recipe={recipe}")) == (512, rate, 100, THERE)
    assert steps(of("crd", "recipe=mlkd")) == steps(of("reviewkd", "recipe=mlkd")) == (256, 0.1, 100, THERE)
    assert steps(of("ofd", "recipe=mlkd")) == (128, 0.05, 100, THERE)
    assert {c.optim.weight_decay for c in (kd, dkd, mlkd, ctkd)} == {1e-4}


@pytest.mark.parametrize("dataset", ["cifar10", "tiny_imagenet"])
def test_other_sets_have_the_plain_command(dataset: str) -> None:
    for pair in ("r32x4_r8x4", "vgg13_vgg8", "r56_r20"):
        words = (f"dataset={dataset}", f"pair={pair}")
        assert weights(make(*words, "method=lskd"), "T", *LOSS) == [2, 0.1, 9]
        assert part(make(*words, "method=dkd+lskd"), "dkd", "T", "alpha", "beta") == [2, 9, 72]
        assert part(make(*words, "method=lskd+mlkd"), "mlkd", "T", *LOSS) == [2, 0.1, 9]


def test_networks_without_a_pair_have_the_plain_command() -> None:
    words = ("dataset=cifar100", "teacher.model=resnet56", "student.model=resnet8x4")
    assert part(make(*words, "method=lskd+dkd"), "dkd", "T", "alpha", "beta") == [2, 9, 72]


@pytest.mark.parametrize("dataset", ["cifar100", "imagenet"])
@pytest.mark.parametrize("base", ["dkd", "mlkd", "ctkd"])
def test_order_and_recipe_change_nothing(base: str, dataset: str) -> None:
    pair = {"cifar100": "vgg13_vgg8", "imagenet": "r34_r18"}[dataset]
    given = [(f"lskd+{base}", ""), (f"{base}+lskd", ""), (f"lskd+{base}", "lskd"), (f"{base}+lskd", "lskd")]
    found = []
    for method, recipe in given:
        words = [f"recipe={recipe}"] if recipe else []
        config = make(f"dataset={dataset}", f"pair={pair}", f"method={method}", *words)
        found.append(config.numbers() | {"method": None})
    assert found[0] == found[1] == found[2] == found[3]


def test_what_the_command_line_says_wins() -> None:
    words = ("dataset=cifar100", "pair=r56_r20", "method=lskd+dkd", "method_args.dkd.beta=5", "recipe=mdistiller")
    config = make(*words)
    assert (config.recipe, part(config, "dkd", "T", "alpha", "beta")) == ("mdistiller", [3, 18, 5])
    assert steps(make("dataset=cifar100", "pair=r56_r20", "method=lskd+mlkd", "recipe=mlkd"))[2] == 240


@pytest.mark.parametrize("method", ["kd+crd", "crd+kd"])
def test_a_recipes_exceptions_hold_for_any_order_of_parts(method: str) -> None:
    config = make("dataset=imagenet", "pair=r34_r18", f"method={method}", "recipe=mdistiller")
    assert steps(config) == (256, 0.1, 100, THERE)
