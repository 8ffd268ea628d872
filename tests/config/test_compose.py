"""Layers, spellings, errors: a configuration is right or it is refused with everything that is wrong."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.builders.names import NAMES, train_config
from pipeline.config import ConfigError, HelpRequested, TrainConfig, describe
from pipeline.config.layers import CONFIGS, find_pair, read_yaml


def make(*words: str) -> TrainConfig:
    return train_config(words)


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make(*words)
    return caught.value.problems


def test_layers_in_order() -> None:
    config = make("dataset=cifar100", "pair=resnet56-resnet20", "method=kd")
    assert (config.teacher.model, config.student.model) == ("resnet56", "resnet20")
    assert config.data.mean == (0.5071, 0.4867, 0.4408)
    assert config.method_args == {"T": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}
    assert config.recipe == "repdistiller"
    assert (config.optim.lr, config.optim.epochs, config.optim.milestones) == (0.05, 240, (150, 180, 210))
    config = make("dataset=cifar100", "pair=resnet56-resnet20", "method=kd", "recipe=simkd", "method_args.T=2")
    assert config.method_args == {"T": 2, "ce_weight": 1.0, "kd_weight": 1.0}


def test_later_words_win_and_types_are_kept() -> None:
    config = make(
        "dataset=cifar100", "model=resnet8", "optim.lr=1e-1", "optim.lr=2e-3", "run.name=7", "runtime.amp=off"
    )
    assert config.optim.lr == 2e-3
    assert config.run.name == "7"
    assert config.runtime.amp == "off"
    assert config.student.model == "resnet8"


@pytest.mark.parametrize(
    "spelling",
    ["resnet32x4-resnet8x4", "res32x4_res8x4", "r32x4-r8x4", "ResNet32x4_ResNet8x4", "resnet32x4_res8x4"],
)
def test_pair_spellings(spelling: str) -> None:
    assert make("dataset=cifar100", f"pair={spelling}").pair == "resnet32x4-resnet8x4"


OF_IMAGENET = {"ResNet34-ResNet18", "ResNet50-MobileNetV1", "ResNet50-ResNet18"}


def test_every_pair_is_found_by_its_own_name_and_has_known_networks() -> None:
    table = read_yaml(CONFIGS / "pairs.yaml")
    for name, row in table["pairs"].items():
        assert find_pair(name, table) == name
        assert find_pair(name.replace("wrn_", "wrn").replace("-", "_"), table) == name
        for side in ("teacher", "student"):
            networks = "imagenet" if name in OF_IMAGENET else "cifar"
            found = NAMES["student.model"](row[side]["model"], {"networks": networks})
            assert found.rpartition("/")[2] == row[side]["model"].lower()


def test_all_problems_at_once_each_with_the_nearest_name() -> None:
    found = problems(
        "dataset=cifar1000", "pair=r56-r21", "method=kdd", "optim.lrr=1", "optim.lr=fast", "data.batch_size=2.5",
        "oops", "teacher.model=resnet5", "data.flip=maybe",
    )  # fmt: skip
    text = "\n".join(found)
    assert "unknown dataset 'cifar1000'; did you mean 'cifar100'?" in text
    assert "unknown pair 'r56-r21'; did you mean 'resnet56-resnet20'?" in text
    assert "unknown method 'kdd'; did you mean 'kd'?" in text
    assert "unknown key 'optim.lrr'; did you mean 'optim.lr'?" in text
    assert 'optim.lr="fast": input should be a valid number' in text
    assert "data.batch_size=2.5: input should be a valid integer" in text
    assert "expected key=value, got 'oops'" in text
    assert "unknown model 'resnet5'" in text
    assert 'data.flip="maybe"' in text
    assert len(found) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=kd"], "dataset= must be given"),
        (["dataset=cifar100", "select_on=val"], "select_on=val needs data.val_split"),
        (["dataset=cifar100", "data.std=[0,1,1]"], "std must be positive"),
        (["dataset=cifar100", "student=resnet20"], "student="),
        (["dataset=cifar100", "method_args.temperature=1", "method=kd"], "unknown key 'method_args.temperature'"),
        (["dataset=cifar100", "method=kd", "method_args.T=-1"], "method_args.T=-1: input should be greater than 0"),
        (["dataset=cifar100", "recipe=nobody"], "unknown recipe 'nobody'"),
        (["dataset=../cifar100"], "unknown dataset '../cifar100'"),
        (["dataset=cifar100", "optim.lr=nan"], "optim.lr"),
        (["dataset=cifar100", "optim.lr=[1"], "cannot read 'optim.lr=[1'"),
        (["dataset=cifar100", "optim.nesterov=true", "optim.momentum=0"], "nesterov"),
        (["config=/nowhere.yaml"], "no such file: /nowhere.yaml"),
        (["dataset=cifar100", "teacher.source=cachd"], "unknown teacher source 'cachd'"),
        (["dataset=cifar100", "data.loader=residnt"], "unknown loader 'residnt'; did you mean 'resident'?"),
        (["dataset=cifar100", "optim.name=sdg"], "unknown optimiser 'sdg'; did you mean 'sgd'?"),
        (["dataset=cifar100", "runtime.amp=fp8"], "runtime.amp"),
        (["dataset=cifar100", "seed=-1"], "seed=-1"),
    ],
)
def test_each_problem_is_named(words: list[str], message: str) -> None:
    assert any(message in problem for problem in problems(*words)), problems(*words)


def test_resolved_configuration_reads_back(tmp_path: Path) -> None:
    config = make("dataset=cifar100", "pair=wrn40_2_wrn16_2", "method=kd", "recipe=simkd", "optim.lr=0.3", "seed=5")
    file = tmp_path / "config.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json"))))
    assert make(f"config={file}") == config
    assert make(f"config={file}", "optim.lr=0.1").optim.lr == 0.1


def test_fingerprint_is_what_is_trained_not_where() -> None:
    base = ["dataset=cifar100", "pair=resnet56-resnet20", "method=kd"]
    same = make(*base, "run.dir=elsewhere", "data.workers=7", "data.loader=torch", "runtime.device=cpu", "seeds=3")
    assert make(*base).fingerprint() == same.fingerprint()
    for other in ("seed=1", "optim.lr=0.1", "data.seed=3", "method_args.T=2", "teacher.checkpoint=x"):
        assert make(*base).fingerprint() != make(*base, other).fingerprint()


def test_help_lists_every_key() -> None:
    with pytest.raises(HelpRequested):
        make("--help")
    text = describe("usage", TrainConfig)
    for key in (
        "dataset=required",
        "optim.lr=0.05",
        "run.limit_steps=-",
        "runtime.amp=off",
        "data.std=[0.25,0.25,0.25]",
    ):
        assert key in text
