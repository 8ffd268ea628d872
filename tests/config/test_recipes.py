"""Recipes: every one goes with every method, and each source's published rates and weights come out."""

import pytest
from making import IMAGENET, cifar, composed, exceptions, make, read_once, steps, weights

from pipeline.config import ExportConfig, TrainConfig
from pipeline.config.layers import CONFIGS
from pipeline.datasets import DATASETS
from pipeline.distillers import DISTILLERS
from pipeline.models import MODELS

RECIPES = (
    *("repdistiller", "mdistiller", "simkd", "semckd", "srrl", "energykd", "kdrefine", "mlkd", "lskd", "r2kd", "dot"),
    *("dist", "ctkd", "catkd", "nkd", "torchvision", "simkd_dali", "funmatch"),
    *("ffcv_16", "ffcv_24", "ffcv_32", "ffcv_40", "ffcv_56", "ffcv_88"),
)
OF_MDISTILLER = ("mdistiller", "dot", "lskd", "mlkd", "catkd")
SMALL = ("mobilenetv2", "mobilenetv2_1_0", "shufflev1", "shufflev2", "shufflev2_1_5")


def test_every_source_has_a_recipe() -> None:
    assert {p.stem for p in (CONFIGS / "recipe").glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("dataset", ["cifar100", "folder", "tiny_imagenet"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_with_every_method(recipe: str, dataset: str) -> None:
    for method in DISTILLERS.names():
        config = composed(dataset, method, recipe)
        assert config.variant in ("default", *DISTILLERS.get(method).variants)
    words = (f"dataset={dataset}", "method=kd", f"recipe={recipe}")
    plain = composed(dataset, "kd", recipe)
    assert make(*words) == plain


def test_no_key_of_a_layer_is_dropped() -> None:
    known = {*TrainConfig.model_fields, *ExportConfig.model_fields, "per", "with", "like"}
    for kind in ("dataset", "method", "recipe"):
        for file in (CONFIGS / kind).glob("*.yaml"):
            assert read_once(file).keys() <= known, file
    for file_and_kind, _, settings in exceptions():
        assert settings.keys() <= known, file_and_kind


def test_selectors_name_things_that_exist() -> None:
    known = {
        "dataset": {*DATASETS.names(), "imagenet"},
        "pair": set(read_once(CONFIGS / "pairs.yaml")["pairs"]),
        "method": set(DISTILLERS.names()),
        "recipe": set(RECIPES),
        "student": {name.rpartition("/")[2] for name in MODELS.names()},
        "variant": {variant for name in DISTILLERS.names() for variant in DISTILLERS.get(name).variants},
    }
    for file, when, _ in exceptions():
        for selector, value in when.items():
            values = value if isinstance(value, list) else [value]
            assert set(values) <= known[selector], (file, selector)


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        *[(m, "repdistiller") for m in ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "nst", "crd")],
        *[(m, "repdistiller") for m in ("ab", "ft", "fsp")],
        *[(m, "mdistiller") for m in ("dkd", "reviewkd", "ofd", "edkd", "kdsvd")],
        *[(m, "energykd") for m in ("energykd", "energydkd", "heda")],
        *[
            (m, m)
            for m in ("simkd", "semckd", "srrl", "kdrefine", "mlkd", "lskd", "r2kd", "dist", "ctkd", "catkd", "nkd")
        ],
        *[(m, "semckd") for m in ("hkd", "irg")],
        ("uskd", "nkd"),
        ("funmatch", "funmatch"),
    ],
)
def test_default_is_the_recipe_of_the_paper(method: str, recipe: str) -> None:
    assert cifar(f"method={method}").recipe == recipe


def test_kd_weights_of_each_source() -> None:
    names = ("T", "ce_weight", "kd_weight")
    for recipe in ("repdistiller", "mdistiller", "kdrefine", "lskd"):
        assert weights(cifar("method=kd", f"recipe={recipe}"), *names) == [4.0, 0.1, 0.9]
    for recipe in ("simkd", "semckd"):
        assert weights(cifar("method=kd", f"recipe={recipe}"), *names) == [4.0, 1.0, 1.0]
        assert weights(make(IMAGENET, "method=kd", f"recipe={recipe}"), *names) == [4.0, 1.0, 1.0]
    assert weights(make(IMAGENET, "method=kd", "recipe=mdistiller"), *names) == [1.0, 0.5, 0.5]
    words = (IMAGENET, "method=kd", "recipe=lskd")
    assert weights(make(*words, "pair=r34_r18"), *names) == [1.0, 1.0, 0.5]
    assert weights(make(*words, "pair=r50_mv1"), *names) == [1.0, 0.5, 0.5]


def test_feature_methods_of_each_source() -> None:
    for method, weight in {"at": 1000, "sp": 3000, "pkt": 30000, "cc": 0.02, "vid": 1, "rkd": 1, "crd": 0.8}.items():
        for recipe, kd in {"repdistiller": 0, "mdistiller": 0, "simkd": 1, "semckd": 1}.items():
            found = cifar(f"method={method}", f"recipe={recipe}")
            assert weights(found, "ce_weight", "kd_weight", "feat_weight") == [1, kd, weight]
    for method, weight in {"hkd": 1, "irg": 0.005, "semckd": 400}.items():
        assert weights(cifar(f"method={method}"), "ce_weight", "kd_weight", "feat_weight") == [1, 1, weight]
    assert weights(make(IMAGENET, "method=semckd"), "feat_weight") == [50]
    assert cifar("method=vid", "recipe=mdistiller").variant == "mdistiller"
    assert cifar("method=vid", "pair=resnet32x4_vgg8").variant == "repdistiller"


def test_hint_layer() -> None:
    for recipe, layer, kd in (("repdistiller", 2, 0), ("mdistiller", 2, 0), ("simkd", 1, 1), ("semckd", 1, 1)):
        found = cifar("method=fitnet", f"recipe={recipe}")
        assert weights(found, "hint_layer", "kd_weight", "feat_weight") == [layer, kd, 100]
        assert found.variant == ("simkd" if kd else "default")


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_cifar_rates(dataset: str) -> None:
    published = (64, 0.05, 240, (150, 180, 210))
    for recipe in ("repdistiller", "mdistiller", "simkd", "semckd", "srrl", "dot", "dist", "ctkd", "catkd", "lskd"):
        config = make(f"dataset={dataset}", "model=resnet20", "method=kd", f"recipe={recipe}")
        assert steps(config) == published
        assert (config.data.crop, config.data.padding, config.optim.weight_decay) == ("pad", 4, 5e-4)
        assert (config.optim.momentum, config.optim.nesterov) == (0.9, False)
    assert cifar("method=kd").data.std == (0.2675, 0.2565, 0.2761)


@pytest.mark.parametrize("student", SMALL)
def test_mobile_and_shuffle_nets_learn_at_a_hundredth(student: str) -> None:
    for recipe in RECIPES:
        assert cifar(f"model={student}", "method=kd", f"recipe={recipe}").optim.lr == 0.01
    assert make("dataset=tiny_imagenet", f"model={student}", "method=r2kd").optim.lr == 0.01
    assert make("dataset=tiny_imagenet", f"model={student}", "method=kd", "recipe=dot").optim.lr == 0.2
    assert weights(cifar(f"model={student}", "method=ab"), "first_lr") == [0.01]


def test_energykd_epochs() -> None:
    longer = (64, 0.05, 360, (150, 180, 210, 240, 270, 300))
    for method in ("energykd", "energydkd"):
        assert steps(cifar(f"method={method}", "pair=res32x4_res8x4")) == longer
    assert steps(cifar("method=kd", "recipe=energykd")) == longer
    for method in ("heda", "vanilla"):
        assert steps(cifar(f"method={method}", "recipe=energykd")) == (64, 0.05, 240, (150, 180, 210))
    assert weights(cifar("method=energykd", "pair=r56_r20"), "low_rate", "high_rate") == [0.3, 0.3]
    assert weights(cifar("method=energydkd", "pair=vgg13_vgg8"), "beta", "low_rate", "high_rate") == [6, 0.1, 0.1]


def test_kdrefine_rate() -> None:
    assert cifar("method=kdrefine", "pair=r56_r20").optim.lr == 0.01
    assert weights(cifar("method=ab", "recipe=kdrefine"), "first_lr") == [0.01]
    assert cifar("method=dkd", "recipe=kdrefine").variant == "kdrefine"
    assert cifar("method=dkd", "recipe=kdrefine", "variant=paper").variant == "paper"


@pytest.mark.parametrize("recipe", OF_MDISTILLER)
def test_imagenet_of_mdistiller_keeps_the_methods_own(recipe: str) -> None:
    def of(method: str) -> tuple[int, float, int, tuple[int, ...]]:
        return steps(make(IMAGENET, f"method={method}", f"recipe={recipe}", "pair=r34_r18"))

    ends = (100, (30, 60, 90))
    plain = {"mlkd": 0.1}.get(recipe, 0.2)
    for method in ("kd", "dkd", "at", "catkd", "lskd"):
        assert of(method) == (512, plain, *ends)
    assert of("ofd") == (128, 0.05, *ends)
    assert of("crd") == of("reviewkd") == (256, 0.1, *ends)
    assert of("mlkd") == (512, 0.1, *ends)
    found = make(IMAGENET, "method=mlkd", f"recipe={recipe}")
    assert weights(found, "T", "ce_weight", "kd_weight") == [1.0, 0.5, 0.5]
    assert (found.optim.weight_decay, found.data.crop, found.data.mean) == (1e-4, "window", (0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("simkd", (256, 0.1, 120, (30, 60, 90))),
        ("semckd", (256, 0.1, 90, (30, 60))),
        ("srrl", (512, 0.2, 100, (30, 60, 90))),
        ("ctkd", (256, 0.1, 120, (30, 60, 90))),
    ],
)
def test_imagenet_of_others(recipe: str, wanted: tuple[int, float, int, tuple[int, ...]]) -> None:
    found = make(IMAGENET, f"method={recipe}", f"recipe={recipe}", "pair=r34_r18")
    assert steps(found) == wanted
    assert found.optim.weight_decay == 1e-4


def test_srrl_forms() -> None:
    assert (cifar("method=srrl").variant, weights(cifar("method=srrl"), "kd_weight", "feat_weight")) == (
        "default",
        [1, 1],
    )
    found = make(IMAGENET, "method=srrl")
    assert (found.variant, weights(found, "kd_weight", "regression_weight")) == ("original", [0, 1])
    assert make(IMAGENET, "method=srrl", "recipe=simkd").variant == "default"


def test_ttm_has_the_weights_of_its_readme() -> None:
    """vgg13-vgg8: --ttm_l .1 -r 1 -b 45; crd -b .8 --add wttm -a 4 --ttm_l .2. No other pair is stated."""
    found = cifar("method=ttm", "pair=vgg13-vgg8")
    assert (found.recipe, weights(found, "gamma", "ce_weight", "kd_weight")) == ("repdistiller", [0.1, 1, 45])
    both = cifar("method=wttm+crd", "pair=vgg13-vgg8").method_args
    assert [both["wttm"][name] for name in ("gamma", "ce_weight", "kd_weight")] == [0.2, 1, 4]
    assert [both["crd"][name] for name in ("feat_weight", "kd_weight")] == [0.8, 0]


def test_ctkd_loops() -> None:
    assert weights(cifar("method=ctkd"), "decay_loops") == [10]
    assert weights(make(IMAGENET, "method=ctkd"), "decay_loops") == [5]


def test_dot() -> None:
    for recipe, rule in (("dot", "dot"), ("mdistiller", "sgd")):
        found = make("dataset=tiny_imagenet", "method=kd", f"recipe={recipe}", "pair=r18_mv2")
        assert steps(found) == (256, 0.2, 200, (60, 120, 160))
        assert (found.data.crop, found.data.rotation, found.data.flip) == ("none", 20.0, True)
        assert (found.data.mean, found.data.std) == ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
        assert (found.networks, found.student.model, found.teacher.model) == (
            "tiny",
            "tiny/mobilenetv2",
            "cifar/resnet18",
        )
        assert found.optim.name == rule
    rules = [make(f"dataset={d}", "method=kd", "recipe=dot").optim for d in ("cifar100", "tiny_imagenet", "folder")]
    assert [(o.name, o.dot_delta) for o in rules] == [("dot", 0.075), ("dot", 0.075), ("dot", 0.09)]


def test_r2kd_on_tiny_imagenet() -> None:
    found = make("dataset=tiny_imagenet", "method=r2kd", "pair=r56_r20")
    assert steps(found) == (64, 0.05, 240, (150, 180, 210))
    assert (found.data.crop, found.data.padding, found.data.mean) == ("pad", 8, (0.485, 0.456, 0.406))
    assert (found.networks, found.teacher.source) == ("cifar", "pruned")
