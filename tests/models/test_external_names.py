"""Names, options, weights and preprocessing of timm:NAME and torchvision:NAME."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.contracts import InputError
from pipeline.models.external import LIBRARIES, build_external, canonical_external, preprocessing
from pipeline.registry import UnknownName

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's checkpoints folder, empty, and no network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries again for most of a minute
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_names() -> None:
    torchvision, timm = LIBRARIES["torchvision"].names(), LIBRARIES["timm"].names()
    assert {"convnext_tiny", "resnet18"} <= set(torchvision) and "resnet26" in timm
    assert len(torchvision) >= 80 and len(timm) > 1000
    assert canonical_external("TorchVision:ResNet18") == "torchvision:resnet18"
    assert canonical_external("timm:resnet18.a1_in1k") == "timm:resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet27", "did you mean 'resnet26'"),
        ("timm:resnet18.no_such_tag", "unknown model"),
        ("torchvision:convnext_tinny", "did you mean 'convnext_tiny'"),
        ("torchvison:resnet18", "did you mean 'torchvision'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message) as caught:
        build_external(name, num_classes=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet"])
def test_a_wrong_option_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} cannot be built with wings=2: ") as caught:
        build_external(name, num_classes=2, wings=2)
    assert "wings" in str(caught.value).split(": ", 1)[1] and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("torchvision:shufflenet_v2_x0_5", "shufflenetv2_x0.5-f707e7126e.pth"),
        ("timm:test_resnet", "test_resnet.r160_in1k.safetensors"),
    ],
)
def test_weights_without_network(name: str, file: str, hub: Path) -> None:
    with pytest.raises(InputError, match=f"no weights for {name}: http") as caught:
        build_external(name, num_classes=1000, pretrained=True)
    assert str(hub / file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", (1000, 10))
def test_timm_weights_that_lie_in_the_hub_folder(classes: int, hub: Path) -> None:
    torch.manual_seed(0)
    published = build_external("timm:test_resnet", num_classes=1000).state_dict()
    safetensors.torch.save_file(published, hub / "test_resnet.r160_in1k.safetensors")
    state = build_external("timm:test_resnet", num_classes=classes, pretrained=True).state_dict()
    same = {key for key in published if published[key].equal(state[key])}
    assert set(published) - same == (set() if classes == 1000 else {"fc.weight", "fc.bias"})


@pytest.mark.parametrize("classes", (1000, 10))
def test_torchvision_weights_that_lie_in_the_hub_folder(
    classes: int, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    published = build_external("torchvision:shufflenet_v2_x0_5", num_classes=1000).state_dict()
    torch.save(published, hub / "shufflenetv2_x0.5-f707e7126e.pth")
    state = build_external("torchvision:shufflenet_v2_x0_5", num_classes=classes, pretrained=True).state_dict()
    same = {key for key in published if published[key].equal(state[key])}
    assert set(published) - same == (set() if classes == 1000 else {"fc.weight", "fc.bias"})


def test_preprocessing() -> None:
    imagenet = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    assert preprocessing("resnet20") is None
    assert preprocessing("torchvision:resnet18") == imagenet | {"image_size": 224, "interpolation": "bilinear"}
    assert preprocessing("torchvision:inception_v3") == imagenet | {"image_size": 299, "interpolation": "bilinear"}
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert preprocessing("timm:mixer_b16_224") == half | {"image_size": 224, "interpolation": "bicubic"}
    assert preprocessing("timm:resnet18.tv_in1k") == imagenet | {"image_size": 224, "interpolation": "bilinear"}


def test_neither_library_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, pipeline.models as m; m.MODELS.names(); print({'timm', 'torchvision'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("library", ("timm", "torchvision"))
def test_a_library_that_is_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=r"pip install -e \.\[timm\]"):
        build_external(f"{library}:resnet18", num_classes=2)
