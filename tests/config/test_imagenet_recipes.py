"""ImageNet's recipes against their sources, and each with every method."""

from dataclasses import dataclass

import pytest
from making import composed, make, steps, weights
from test_recipes import RECIPES

from pipeline.config import ConfigError, DataConfig, layers
from pipeline.config.layers import recipe_file
from pipeline.distillers import DISTILLERS
from pipeline.loaders.config import LoaderConfig

PAIRS = ("ResNet34-ResNet18", "ResNet50-MobileNetV1")


@dataclass(frozen=True)
class Rung:
    """start_ramp and end_ramp (epochs from 0) of ffcv-imagenet's rn18_configs and rn50_configs."""

    epochs: int
    start: int
    end: int


# The same in both folders.
LADDER = (Rung(16, 11, 13), Rung(24, 17, 20), Rung(32, 23, 27), Rung(40, 29, 34), Rung(56, 41, 48), Rung(88, 65, 76))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_with_every_method(recipe: str, pair: str) -> None:
    for method in DISTILLERS.names():
        config = composed("imagenet", method, recipe, pair)
        assert (config.pair, config.networks, config.recipe) == (pair, "imagenet", recipe)
        assert config.variant in ("default", *DISTILLERS.get(method).variants)


def test_the_data_set_alone() -> None:
    config = composed("imagenet", "vanilla", "default", PAIRS[0])
    data = config.data
    assert steps(config) == (256, 0.1, 100, (30, 60, 90))
    assert (data.loader, data.crop, data.image_size, data.resize, data.flip) == ("torch", "window", 224, 256, True)
    assert (data.scale, data.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (config.optim.weight_decay, config.optim.momentum, config.optim.nesterov) == (1e-4, 0.9, False)


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("torchvision", (256, 0.1, 90, (30, 60))),
        ("mdistiller", (512, 0.2, 100, (30, 60, 90))),
        ("simkd", (256, 0.1, 120, (30, 60, 90))),
        ("simkd_dali", (256, 0.1, 120, (30, 60, 90))),
        ("dist", (256, 0.1, 100, (30, 60, 90))),
        ("nkd", (256, 0.1, 100, (30, 60, 90))),
    ],
)
def test_plain_recipes(recipe: str, wanted: tuple[int, float, int, tuple[int, ...]]) -> None:
    config = composed("imagenet", "dkd", recipe, PAIRS[0])
    assert steps(config) == wanted
    assert (config.optim.schedule, config.optim.gamma, config.optim.warmup_epochs) == ("multistep", 0.1, 0)
    assert (config.optim.label_smoothing, config.optim.weight_decay) == (0.0, 1e-4)
    assert config.data.ramp is None and config.student.args == {}


def test_dist_has_nesterov_and_spares_norms() -> None:
    """image_classification_sota, configs/strategies/distill/resnet_dist.yaml, resnet_kdt4.yaml; lib/utils/optim.py."""
    for method in ("dist", "kd"):
        optim = make("dataset=imagenet", f"method={method}", "recipe=dist", "pair=r34_r18").optim
        assert (optim.nesterov, optim.decay_norm_bias, optim.weight_decay) == (True, False, 1e-4)
    found = make("dataset=imagenet", "method=kd", "recipe=dist", "pair=r34_r18")
    assert weights(found, "T", "ce_weight", "kd_weight") == [4, 0.9, 1]
    found = make("dataset=imagenet", "method=dist", "pair=r34_r18")
    assert (found.recipe, weights(found, "T", "beta", "gamma", "ce_weight", "kd_weight")) == ("dist", [1, 1, 1, 1, 2])
    small = make("dataset=cifar100", "method=dist").optim
    assert (small.nesterov, small.decay_norm_bias, small.weight_decay) == (False, True, 5e-4)


def test_nkd_of_cls_kd() -> None:
    """cls_KD, configs/_base_/schedules/imagenet_bs256.py and configs/distillers."""
    for pair, clipped in (("r34_r18", 0), ("r50_mv1", 5)):
        found = make("dataset=imagenet", "method=nkd", f"pair={pair}")
        assert (found.recipe, steps(found)) == ("nkd", (256, 0.1, 100, (30, 60, 90)))
        assert (found.optim.weight_decay, found.optim.clip_norm, found.optim.nesterov) == (1e-4, clipped, False)
        assert weights(found, "T", "gamma", "ce_weight") == [1, 1.5, 1]
    assert make("dataset=imagenet", "method=uskd", "pair=r50_mv1").optim.clip_norm == 0
    for dataset, T in (("imagenet", 1), ("cifar100", 3)):
        found = make(f"dataset={dataset}", "method=kd", "recipe=nkd")
        assert weights(found, "T", "ce_weight", "kd_weight") == [T, 0.5, 0.5]


def test_simkds_windows() -> None:
    plain, dali = (composed("imagenet", "simkd", recipe) for recipe in ("simkd", "simkd_dali"))
    assert (plain.data.scale, plain.data.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (dali.data.scale, dali.data.ratio) == ((0.1, 1.0), (0.8, 1.25))
    assert composed("imagenet", "fitnet", "simkd_dali").variant == "simkd"
    assert composed("cifar100", "simkd", "simkd_dali").data == composed("cifar100", "simkd", "simkd").data


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: str(rung.epochs))
def test_the_ladder(rung: Rung) -> None:
    config = composed("imagenet", "kd", f"ffcv_{rung.epochs}", PAIRS[0])
    data, optim = config.data, config.optim
    assert (data.batch_size, optim.lr, optim.weight_decay) == (1024, 0.5, 5e-5)
    assert (optim.epochs, optim.schedule, optim.warmup_epochs, optim.min_lr) == (rung.epochs, "linear", 2, 0)
    assert (optim.warmup_start, optim.label_smoothing, optim.decay_norm_bias) == (1e-4, 0.1, False)
    assert (data.image_size, data.test_size, data.eval_flip) == (192, 256, True)
    assert data.ramp == (160, rung.start, rung.end)
    assert config.student.args == {"blurpool": True} and config.teacher.args == {}
    assert weights(config, "T", "ce_weight", "kd_weight") == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: str(rung.epochs))
@pytest.mark.parametrize("network", ["resnet50", "imagenet/resnet50"])
def test_the_ladder_of_resnet50(rung: Rung, network: str) -> None:
    config = make("dataset=folder", f"model={network}", f"recipe=ffcv_{rung.epochs}")
    assert (config.data.batch_size, config.optim.lr, config.optim.weight_decay) == (4096, 1.7, 1e-4)
    assert (config.optim.epochs, config.data.ramp) == (rung.epochs, (160, rung.start, rung.end))


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: str(rung.epochs))
def test_sizes_of_the_ladder(rung: Rung) -> None:
    """ffcv-imagenet's get_resolution, epoch by epoch; evaluation takes 224 / 256 of the shorter side."""
    data = composed("imagenet", "kd", f"ffcv_{rung.epochs}").data
    training = LoaderConfig(data=data)
    for epoch in range(rung.epochs):
        share = (epoch - rung.start) / (rung.end - rung.start)
        between = round((160 + 32 * share) / 32) * 32
        assert training.size_at(epoch) == (160 if epoch <= rung.start else 192 if epoch >= rung.end else between)
    test = LoaderConfig(data=data, train=False)
    assert test.size_at(5) == 256 and test.shorter_side == round(256 * 256 / 224)


def test_a_recipe_like_another(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "top": {"like": "middle", "optim": {"lr": 3}, "per": [{"when": {"method": "kd"}, "set": {"optim": {"lr": 4}}}]},
        "middle": {"like": "base", "optim": {"epochs": 7}},
        "base": {"optim": {"lr": 1}, "per": [{"when": {"method": "kd"}, "set": {"optim": {"lr": 2, "epochs": 5}}}]},
    }
    monkeypatch.setattr(layers, "layer_file", lambda kind, name: dict(files[name]))

    def of(name: str, method: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for layer in layers.unfold(recipe_file(name), {"method": method}):
            found |= layer.get("optim", {})
        return found

    assert of("base", "at") == {"lr": 1} and of("base", "kd") == {"lr": 2, "epochs": 5}
    assert of("middle", "at") == {"lr": 1, "epochs": 7} and of("middle", "kd") == {"lr": 2, "epochs": 7}
    assert of("top", "at") == {"lr": 3, "epochs": 7} and of("top", "kd") == {"lr": 4, "epochs": 7}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["data.min_image_size=256"], "min_image_size=256 is above image_size=224"),
        (["data.min_image_size=160", "data.crop=none"], "min_image_size needs crop=window"),
        (["data.min_image_size=160"], "grow_epochs=[A,B] with 1 <= A < B, not [0, 0]"),
        (["data.min_image_size=160", "data.grow_epochs=[5,5]"], "1 <= A < B, not [5, 5]"),
        (["optim.label_smoothing=1"], "optim.label_smoothing=1"),
        (["optim.warmup_start=1.5"], "optim.warmup_start=1.5"),
    ],
)
def test_wrong_values_are_named(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("dataset=folder", "model=resnet18", *words)
    assert len(caught.value.problems) == 1 and reason in caught.value.problems[0]


def test_sizes_without_growth() -> None:
    data = DataConfig(image_size=48)
    assert (data.ramp, data.smallest_size, data.test_size) == (None, 48, 48)
    data = DataConfig(image_size=48, min_image_size=32, grow_epochs=(2, 4), crop="window", eval_image_size=64)
    assert (data.ramp, data.smallest_size, data.test_size) == ((32, 1, 3), 32, 64)
