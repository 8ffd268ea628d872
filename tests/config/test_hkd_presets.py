"""HKD: SemCKD's form by default, a weight that is felt for the authors' own, and the two steps of SemCKD's script."""

import pytest
from making import cifar, steps, weights

from pipeline.distillers.hkd import HKD

NAMES = ("init_weight", "decay", "ce_weight", "kd_weight", "feat_weight")


@pytest.mark.parametrize("pair", ["resnet32x4-resnet8x4", "resnet32x4-vgg8", "vgg13-ShuffleV2", "wrn_40_2-MobileNetV2"])
def test_the_published_figures_form_is_the_default_of_every_pair(pair: str) -> None:
    config = cifar("method=hkd", f"pair={pair}")
    assert config.variant == "default" and next(iter(HKD.variants)) == "semckd"
    assert weights(config, *NAMES) == [100, 0.7, 1, 1, 1]


@pytest.mark.parametrize("variant", ["paper", "aligned"])
def test_the_authors_form_weighs_enough_to_be_felt_beside_a_cross_entropy(variant: str) -> None:
    assert weights(cifar("method=hkd", f"variant={variant}"), *NAMES) == [100, 0.7, 1, 1, 1000]
    assert weights(cifar("method=hkd", f"variant={variant}", "method_args.feat_weight=5"), "feat_weight") == [5]
    assert weights(cifar("method=hkd", "variant=semckd"), "feat_weight") == [1]


def test_both_steps_of_semckds_script() -> None:
    """PKT teaches the auxiliary network with -r 1 -a 1 -b 30000, HKD the student with -r 1 -a 1 -b 1."""
    auxiliary = cifar("method=pkt", "recipe=semckd", "teacher.model=resnet32x4", "student.model=resnet8x4_double")
    student = cifar("method=hkd", "teacher.model=resnet8x4_double", "student.model=resnet8x4")
    for config, weight in ((auxiliary, 30000), (student, 1)):
        assert weights(config, "ce_weight", "kd_weight", "feat_weight") == [1, 1, weight]
        assert steps(config) == (64, 0.05, 240, (150, 180, 210)) and config.optim.weight_decay == 5e-4
