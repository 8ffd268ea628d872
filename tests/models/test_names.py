"""Which network a name means, and which options it takes."""

import pytest

from pipeline.contracts import InputError
from pipeline.models import MODELS
from pipeline.models.build import build, options_of, resolve
from pipeline.registry import UnknownName


@pytest.mark.parametrize(
    ("name", "networks", "wanted"),
    [
        ("ResNet18", "cifar", "cifar/resnet18"),
        ("ResNet18", "tiny", "cifar/resnet18"),
        ("resnet18", "imagenet", "imagenet/resnet18"),
        ("ResNet50", "cifar", "cifar/resnet50"),
        ("imagenet/ResNet50", "cifar", "imagenet/resnet50"),
        ("resnet50", "imagenet", "imagenet/resnet50"),
        ("resnet50_6n2", "cifar", "resnet50_6n2"),
        ("MobileNetV2", "cifar", "cifar/mobilenetv2"),
        ("MobileNetV2", "tiny", "tiny/mobilenetv2"),
        ("MobileNetV2", "imagenet", "imagenet/mobilenetv2"),
        ("ShuffleV2", "tiny", "cifar/shufflev2"),
        ("ShuffleV2", "imagenet", "imagenet/shufflev2"),
        ("resnet20", "imagenet", "resnet20"),
        ("wrn-16-2", "cifar", "wrn_16_2"),
    ],
)
def test_shared_names(name: str, networks: str, wanted: str) -> None:
    assert resolve(name, networks) == wanted
    assert wanted in MODELS.names()


@pytest.mark.parametrize("networks", ("cifar", "tiny"))
def test_resnet50_of_small_images_is_answered_with_both(networks: str) -> None:
    with pytest.raises(UnknownName) as caught:
        resolve("resnet50", networks)
    assert "cifar/resnet50" in str(caught.value) and "resnet50_6n2" in str(caught.value)
    parameters = {
        name: sum(p.numel() for p in build(name, num_classes=100).parameters())
        for name in ("cifar/resnet50", "resnet50_6n2")
    }
    assert parameters == {"cifar/resnet50": 23_705_252, "resnet50_6n2": 764_404}


def test_a_name_that_almost_exists() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet20'"):
        resolve("resnet21", "cifar")
    with pytest.raises(UnknownName, match="no cifar network; did you mean 'imagenet/resnet34'"):
        resolve("ResNet34", "cifar")
    with pytest.raises(UnknownName, match="did you mean 'imagenet/resnet18'"):
        resolve("imagenet/resnet19", "cifar")


def test_options() -> None:
    assert "double_bn_update" in options_of("wrn_16_2") and "depth" not in options_of("wrn_16_2")
    assert "stem_feature" in options_of("imagenet/resnet18") and "block" in options_of("resnet20")
    assert build("wrn_16_1", num_classes=5, double_bn_update=True).double_bn_update is True
    with pytest.raises(InputError, match="no option 'stem_features'; did you mean 'stem_feature'"):
        build("imagenet/resnet18", num_classes=5, stem_features="after_pool")
    with pytest.raises(InputError, match="stem_feature='before'"):
        build("imagenet/resnet18", num_classes=5, stem_feature="before")
    with pytest.raises(InputError, match="double_bn_update=1"):
        build("wrn_16_1", num_classes=5, double_bn_update=1)
    with pytest.raises(InputError, match="no option 'depth'"):
        build("resnet20", num_classes=5, depth=8)
