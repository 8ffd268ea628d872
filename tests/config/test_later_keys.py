"""Keys that came later change no hash of a run without them, and old run folders go on."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.builders.names import ALIASES
from pipeline.config import DataConfig, TrainConfig, compose
from pipeline.config.affects import before, without_later
from pipeline.contracts import InputError
from pipeline.run_folder.folder import RunDir

# Of commit 3f763ae.
HASHES = {
    ("dataset=cifar100", "model=resnet8"): "6975ed58c446f85aa0348f0f793e811bcd7649e4bdd379c29b1f6a99871dcde8",
    ("dataset=imagenet", "pair=resnet34-resnet18", "method=kd"): (
        "76c3ca0fb1adb4ef7f2b55142717f7e0af7479062ee42d984c0b3df5f17d1f37"
    ),
}


def make(*words: str) -> TrainConfig:
    return compose(TrainConfig, list(words), aliases=ALIASES, names={})


@pytest.mark.parametrize("words", HASHES, ids=" ".join)
def test_fingerprints_of_then(words: tuple[str, ...]) -> None:
    assert make(*words).fingerprint() == HASHES[words]
    others = {make(*words, more).fingerprint() for more in ("data.classes=numbers", "data.classes=names")}
    assert len(others) == 2 and HASHES[words] not in others
    assert make(*words, "data.max_pixels=9").fingerprint() == HASHES[words]  # of a run that only stops earlier
    replacing = [make(*words, "data.on_bad=replace", *more).fingerprint() for more in ((), ("data.max_pixels=9",))]
    assert replacing[0] != replacing[1]


def test_defaults_are_what_was_done_before() -> None:
    data = make("dataset=cifar100", "model=resnet8").data.model_dump(mode="json")
    later = before(DataConfig)
    assert {name: data[name] for name in later} == later == {"classes": "wnids", "max_pixels": 89_478_485}
    assert not later.keys() & without_later(DataConfig, data).keys()
    assert without_later(DataConfig, data | {"classes": "names"})["classes"] == "names"


@pytest.mark.parametrize("more", [(), ("data.on_bad=replace",)])
def test_a_folder_of_then_goes_on(more: tuple[str, ...], tmp_path: Path) -> None:
    config = make("dataset=imagenet", "model=resnet18", *more)
    content = config.model_dump(mode="json")
    content["data"] = {name: value for name, value in content["data"].items() if name not in before(DataConfig)}
    run = RunDir(tmp_path)
    run.config.write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    with pytest.raises(InputError, match=r"data\.classes wnids there, numbers here"):
        run.claim(make("dataset=imagenet", "model=resnet18", *more, "data.classes=numbers"))
    run.claim(config)
    assert "classes: wnids" in run.config.read_text()
