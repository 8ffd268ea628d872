"""Pairs of the published tables, and the hyper-parameters that methods have for single pairs."""

import pytest
from making import IMAGENET, cifar, exceptions, make, steps, weights


def test_exceptions_for_pairs_compose() -> None:
    found = [(file, when) for file, when, _ in exceptions() if "pair" in when]
    assert len(found) > 20
    for file, when in found:
        kind, name = file.split("/")
        chosen = {"dataset": "cifar100", "method": "kd"} | when | {kind: name}
        first = {k: v if isinstance(v, str) else v[-1] for k, v in chosen.items()}
        assert make(*(f"{k}={v}" for k, v in first.items())).pair == first["pair"]


@pytest.mark.parametrize(
    ("pair", "rate", "epochs"),
    [
        ("resnet32x4_resnet8x4", 0.025, 240),
        ("vgg13_mv2", 0.01, 480),
        ("ResNet50_MobileNetV2", 0.01, 480),
        ("wrn_40_2_ShuffleV1", 0.01, 480),
        ("resnet32x4_ShuffleV1", 0.01, 960),
        ("resnet32x4_ShuffleV2", 0.01, 960),
    ],
)
def test_mlkd(pair: str, rate: float, epochs: int) -> None:
    wanted = (64, rate, epochs, (150, 180, 210))
    assert steps(cifar("method=mlkd", f"pair={pair}")) == wanted
    assert steps(cifar("method=mlkd", f"pair={pair}", "recipe=mdistiller")) == wanted
    assert steps(cifar("method=kd", f"pair={pair}", "recipe=mlkd")) == wanted
    copied = cifar("method=mlkd", f"pair={pair}", "recipe=lskd")
    assert (copied.optim.lr, copied.optim.epochs) == (rate, max(epochs, 480))


def test_mlkd_in_lskd() -> None:
    found = cifar("method=mlkd", "pair=vgg13_vgg8", "recipe=lskd")
    assert (found.optim.lr, found.optim.epochs) == (0.01, 480)
    assert cifar("method=mlkd", "pair=vgg13_vgg8").optim.lr == 0.025


def test_ofd_and_reviewkd_weights() -> None:
    assert weights(cifar("method=ofd"), "feat_weight") == [1e-3]
    assert weights(make(IMAGENET, "method=ofd"), "feat_weight") == [1e-4]
    by_pair = {"r32x4_r8x4": 5, "r56_r20": 0.6, "r110_r32": 1, "r32x4_shuv2": 8}
    for pair, weight in by_pair.items():
        assert weights(cifar("method=reviewkd", f"pair={pair}"), "feat_weight", "warmup") == [weight, 20]
    found = make(IMAGENET, "method=reviewkd", "pair=r50_mv1")
    assert weights(found, "feat_weight", "warmup", "student_preact", "stemless_student") == [8, 1, True, True]


def test_variants_have_weights_and_first_stages_of_their_own() -> None:
    stage = ("feat_weight", "first_epochs", "first_lr")
    assert weights(cifar("method=ft"), *stage) == [200, 30, 0.01]
    assert weights(cifar("method=ft", "variant=paper"), *stage) == [500, 30, 0.01]
    for pair in ("r32x4_r8x4", "vgg13_vgg8"):
        assert weights(cifar("method=ft", "variant=original", f"pair={pair}"), *stage) == [500, 6, 0.1]
    assert weights(make(IMAGENET, "method=ft", "variant=original"), "feat_weight") == [1000]
    assert weights(cifar("method=ft", "variant=paper", "method_args.feat_weight=7"), "feat_weight") == [7]
    for variant, weight in {"default": 0.02, "paper": 300, "torchdistill": 0.003}.items():
        assert weights(cifar("method=cc", f"variant={variant}"), "feat_weight") == [weight]
    for pair, default, paper in (("r32x4_r8x4", 0.05, 1e-4), ("wrn40_2_wrn16_2", 0.05, 3e-6)):
        for variant, rate in (("default", default), ("paper", paper)):
            assert weights(cifar("method=fsp", f"pair={pair}", f"variant={variant}"), "first_lr") == [rate]


def test_dkd_and_nkd_weights() -> None:
    by_pair = {"r56_r20": 2, "r110_r32": 2, "wrn40_2_wrn16_2": 6, "vgg13_vgg8": 6, "vgg13_mv2": 6, "r50_mv2": 8}
    for pair, beta in by_pair.items():
        assert weights(cifar("method=dkd", f"pair={pair}"), "T", "alpha", "beta", "warmup") == [4, 1, beta, 20]
    for pair, beta_there in (("r34_r18", 0.5), ("r50_mv1", 2)):
        assert weights(make(IMAGENET, "method=dkd", f"pair={pair}"), "T", "beta", "warmup") == [1, beta_there, 1]
    assert weights(cifar("method=nkd"), "T", "gamma") == [3, 3.5]
    assert weights(make(IMAGENET, "method=nkd"), "T", "gamma") == [1, 1.5]


TABLES = {
    "RepDistiller, same family": "wrn40_2/wrn16_2 wrn40_2/wrn40_1 r56/r20 r110/r20 r110/r32 r32x4/r8x4 vgg13/vgg8",
    "RepDistiller, across": "vgg13/mv2 ResNet50/mv2 ResNet50/vgg8 r32x4/shuv1 r32x4/shuv2 wrn40_2/shuv1",
    "SimKD": "r32x4/r8x4 r32x4/vgg8 r32x4/shuv2_1_5",
    "SemCKD": "r32x4/vgg8 r32x4/vgg13 vgg13/shuv2 r32x4/shuv2 wrn40_2/mv2 vgg13/vgg8 r32x4/r8x4",
    "LSKD": "r32x4/shuv2 r32x4/wrn16_2 r32x4/wrn40_2 wrn40_2/r8x4 wrn40_2/mv2 vgg13/mv2 ResNet50/mv2",
    "EDKD": "r32x4/r8x4 wrn40_2/wrn16_2 wrn40_2/wrn40_1 vgg13/vgg8 vgg13/mv2 ResNet50/mv2 r32x4/mv2",
    "DOT, Tiny-ImageNet": "r18/mv2 r18/shuv2",
}


@pytest.mark.parametrize("table", TABLES)
def test_pairs_of_the_tables(table: str) -> None:
    dataset, recipe = ("tiny_imagenet", "dot") if "Tiny" in table else ("cifar100", "repdistiller")
    for pair in TABLES[table].split():
        config = make(f"dataset={dataset}", f"recipe={recipe}", "method=kd", f"pair={pair.replace('/', '_')}")
        assert config.pair and config.teacher.model and config.student.model


def test_pairs_of_imagenet() -> None:
    for pair in ("r34-r18", "r50-mv1", "r50-r18"):
        config = make(IMAGENET, "method=kd", f"pair={pair}")
        assert str(config.teacher.model).startswith("imagenet/resnet")


def test_one_pair_means_the_networks_of_its_data_set() -> None:
    students = {
        dataset: make(f"dataset={dataset}", "pair=ResNet50-MobileNetV2", "method=kd").student.model
        for dataset in ("cifar100", "tiny_imagenet", "folder")
    }
    assert students == {
        "cifar100": "cifar/mobilenetv2",
        "tiny_imagenet": "cifar/mobilenetv2",
        "folder": "imagenet/mobilenetv2",
    }
