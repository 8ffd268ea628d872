"""teacher.checkpoint=auto: every layout that projects use, and two networks that only case tells apart."""

from pathlib import Path

import pytest
import torch

from pipeline.contracts import InputError
from pipeline.weights.published import find_checkpoint, releases, spelled


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def found(model: str, dataset: str, root: Path) -> str:
    return find_checkpoint(model, dataset, root).relative_to(root).as_posix()


def refusal(model: str, dataset: str, root: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_checkpoint(model, dataset, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "dataset", "path"),
    [
        ("resnet56", "cifar100", "download_ckpts/cifar_teachers/resnet56_vanilla/ckpt_epoch_240.pth"),
        ("resnet56", "cifar100", "cifar_teachers/resnet56_vanilla/ckpt_epoch_240.pth"),
        ("wrn_40_2", "cifar100", "save/models/wrn_40_2_vanilla/ckpt_epoch_240.pth"),
        ("wrn_40_2", "cifar100", "save/t_models/wrn_40_2_vanilla/ckpt_epoch_240.pth"),
        ("resnet32x4", "cifar100", "save/models/resnet32x4_cifar100_lr_0.05_decay_0.0005_trial_0/resnet32x4_last.pth"),
        ("resnet32x4", "cifar100", "save/teachers/models/resnet32x4_vanilla/resnet32x4_best.pth"),
        ("resnet32x4", "cifar100", "save/teachers/models/resnet32x4_vanilla_cifar100_trial_0/resnet32x4_best.pth"),
        ("imagenet/resnet50", "imagenet", "save/teachers/models/ResNet50_vanilla/ResNet50_best.pth"),
        ("vgg13", "cifar100", "vgg13_vanilla/ckpt_epoch_240.pth"),
        ("vgg13", "cifar10", "cifar10/vgg13_vanilla/ckpt_epoch_240.pth"),
        ("vgg13", "cifar100", "vgg13_best.pth"),
        ("vgg13", "cifar100", "vgg13_last.pth"),
        ("cifar/mobilenetv2", "cifar100", "save/models/MobileNetV2_vanilla/ckpt_epoch_240.pth"),
        ("cifar/mobilenetv2", "cifar100", "MobileNetV2_best.pth"),
        ("wrn_40_2", "tiny_imagenet", "tiny_teachers/models_tinyimagenet_v2/wrn_40_2_vanilla/ckpt_epoch_240.pth"),
        ("tiny/resnet18", "tiny_imagenet", "download_ckpts/tiny_imagenet_teachers/ResNet18_vanilla/ti_res18"),
        ("resnet8", "synthetic", "runs/synthetic/vanilla/resnet8/seed3/student.safetensors"),
        ("resnet8", "synthetic", "synthetic/vanilla/resnet8/seed3/student.safetensors"),
        ("cifar/resnet50", "cifar100", "runs/cifar100/vanilla/cifar-resnet50/seed0/student.safetensors"),
    ],
)
def test_layouts(model: str, dataset: str, path: str, tmp_path: Path) -> None:
    put(tmp_path, "resnet110_vanilla/ckpt_epoch_240.pth", "cifar_teachers/notes.txt", path)
    assert found(model, dataset, tmp_path) == path


def test_what_belongs_to_other_networks_and_sets_is_passed_over(tmp_path: Path) -> None:
    put(
        tmp_path,
        "cifar_teachers/resnet8x4_vanilla/ckpt_epoch_240.pth",
        "cifar_teachers/resnet8_vanilla",  # a file, no folder
        "cifar_teachers/represnet8_vanilla/ckpt_epoch_240.pth",
        "save/teachers/models/resnet8_vanilla_cifar10_trial_0/resnet8_best.pth",
        "tiny_teachers/models_tinyimagenet_v2/resnet8_vanilla/ckpt_epoch_240.pth",
        "runs/cifar10/vanilla/resnet8/seed0/student.safetensors",
        "runs/cifar100/kd/resnet8/seed0/student.safetensors",
        "runs/cifar100/vanilla/resnet8/seed0/checkpoints/last.pt",
        "save/models/resnet8_vanilla/resnet20_best.pth",
        "save/models/resnet8_vanilla/log.txt",
    )
    assert "no weights of resnet8 for cifar100" in refusal("resnet8", "cifar100", tmp_path)


def test_case_tells_two_networks_apart(tmp_path: Path) -> None:
    big, small = "save/models/ResNet50_vanilla/ckpt_epoch_240.pth", "save/models/resnet50_vanilla/ckpt_epoch_240.pth"
    put(tmp_path / "1", big)
    put(tmp_path / "2", small)
    put(tmp_path / "3", big, small)
    for model in ("cifar/resnet50", "ResNet50"):
        assert found(model, "cifar100", tmp_path / "1") == found(model, "cifar100", tmp_path / "3") == big
        assert "expected" in refusal(model, "cifar100", tmp_path / "2")
    for model in ("resnet50_6n2", "resnet50"):
        assert found(model, "cifar100", tmp_path / "2") == found(model, "cifar100", tmp_path / "3") == small
        assert "no known release holds them" in refusal(model, "cifar100", tmp_path / "1")
    put(tmp_path / "4", "ResNet50_best.pth")
    assert found("cifar/resnet50", "cifar100", tmp_path / "4") == "ResNet50_best.pth"
    assert "no weights" in refusal("resnet50_6n2", "cifar100", tmp_path / "4")


def test_spelling() -> None:
    assert spelled("cifar/mobilenetv2", "MobileNetV2") and spelled("wrn_40_2", "WRN_40_2")
    assert not spelled("wrn_40_2", "wrn_40_1") and not spelled("RESNET50", "ResNet50")


def test_which_file_of_several(tmp_path: Path) -> None:
    folder = "save/models/resnet20_vanilla"
    names = ["resnet20_last.pth", "resnet20_best.pth", "ckpt_epoch_80.pth", "ckpt_epoch_240.pth"]
    for at, name in enumerate(names):
        put(tmp_path, f"{folder}/{name}", f"{folder}/opt{at}.json")
        assert found("resnet20", "cifar100", tmp_path) == f"{folder}/{name}"


def test_published_weights_come_before_own_runs_and_seeds_are_numbers(tmp_path: Path) -> None:
    runs = "runs/cifar100/vanilla/resnet56"
    put(tmp_path, f"{runs}/seed10/student.safetensors", f"{runs}/seed9/student.safetensors")
    assert found("resnet56", "cifar100", tmp_path) == f"{runs}/seed9/student.safetensors"
    put(tmp_path, "resnet56_vanilla/ckpt_epoch_240.pth")
    assert found("resnet56", "cifar100", tmp_path) == "resnet56_vanilla/ckpt_epoch_240.pth"


def test_nothing_found(tmp_path: Path) -> None:
    root = tmp_path / "my teachers"
    message = refusal("cifar/resnet50", "cifar100", root)
    path = root / "cifar_teachers/ResNet50_vanilla/ckpt_epoch_240.pth"
    assert message == (
        f"no weights of cifar/resnet50 for cifar100 below {root}: expected {path} of release mdistiller; "
        f"python data_prep/fetch_teachers.py release=mdistiller out='{root}'"
    )
    assert "release=r2kd out=" in refusal("vgg13", "tiny_imagenet", root)
    message = refusal("resnet20", "cifar100", root)
    assert (
        "(published are ResNet50, resnet110," in message and "method=vanilla dataset=cifar100 model=resnet20" in message
    )
    assert "(none are published)" in refusal("resnet20", "cifar10", root)
    assert "resnet34-b627a593.pth of release torchvision; python" in refusal("imagenet/resnet34", "imagenet", root)
    assert "release torchvision" in refusal("imagenet/resnet34", "folder", root)
    assert "torchvision:NAME" in refusal("mobilenetv1", "imagenet", root)
    assert "(none are published)" in refusal("cifar/resnet18", "folder", root)


def test_the_table_is_whole() -> None:
    known = releases()
    assert {"mdistiller", "repdistiller", "r2kd"} <= known.keys()
    for release in known.values():
        assert release.page.startswith("https://") and release.licence
        assert all(file.holds and release.base.endswith("/") for file in release.files)
        assert all(file.sha256 is None or 8 <= len(file.sha256) <= 64 for file in release.files)


def test_weights_of_a_library_lie_at_the_root_or_in_its_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    put(hub, "checkpoints/resnet34-b627a593.pth")
    assert find_checkpoint("imagenet/resnet34", "folder", tmp_path / "r") == hub / "checkpoints/resnet34-b627a593.pth"
    put(tmp_path / "r", "resnet34-b627a593.pth")
    assert find_checkpoint("imagenet/resnet34", "folder", tmp_path / "r") == tmp_path / "r" / "resnet34-b627a593.pth"


def test_runs_of_networks_with_a_prefix(tmp_path: Path) -> None:
    put(tmp_path, "runs/cifar100/vanilla/cifar-resnet50/seed0/student.safetensors")
    assert found("cifar/resnet50", "cifar100", tmp_path) == (
        "runs/cifar100/vanilla/cifar-resnet50/seed0/student.safetensors"
    )


def test_every_published_file_is_found_where_it_is_fetched_to(tmp_path: Path) -> None:
    for release in releases().values():
        for network, path in release.networks.items():
            put(tmp_path / release.name, path)
            assert found(network, release.dataset, tmp_path / release.name) == path
