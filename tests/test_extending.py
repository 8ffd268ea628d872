"""The examples of docs/extend, added as they stand there and used by the pages' own commands."""

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cli
import mini_cifar
import numpy as np
import pytest
import torch

from pipeline import evaluate, train
from pipeline.datasets import DATASETS
from pipeline.models import MODELS
from pipeline.models.build import build
from pipeline.models.common import Network
from pipeline.registry import Registry

PAGES = Path(__file__).resolve().parents[1] / "docs" / "extend"
ENTRIES = {"pipeline/train.py": train, "pipeline/evaluate.py": evaluate}
SHORT = ("optim.epochs=1", "data.batch_size=8", "log.tensorboard=false")
Capture = pytest.CaptureFixture[str]


def blocks(page: str) -> dict[str, str]:
    """The files of a page, by path."""
    found = re.findall(
        r"^    # (\w\S+\.(?:py|yaml))\n((?:    .*\n|\n)+?)(?=    # \w\S+\.yaml\n|\w)", page, re.MULTILINE
    )
    return {path: re.sub(r"^    ", "", content, flags=re.MULTILINE) for path, content in found}


def commands(page: str) -> list[list[str]]:
    """The words of its commands, in order."""
    return [shlex.split(line)[1:] for line in re.findall(r"^    (python pipeline/.*)$", page, re.MULTILINE)]


def add(monkeypatch: pytest.MonkeyPatch, registry: Registry[Any], path: str, code: str) -> ModuleType:
    """The page's module as if it were in the package, until the test ends."""
    registry.names()  # all modules are imported before the copies are made
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, path, "exec"), module.__dict__)
    return module


def run_all(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capture: Capture) -> list[str]:
    """What the page's commands print, in `folder`, whose D holds the data."""
    monkeypatch.chdir(folder)
    told = []
    for entry, *words in commands(page):
        given = [word.replace("data.root=D", f"data.root={folder / 'D'}") for word in words]
        more = SHORT if entry == "pipeline/train.py" else ()
        code, out, err = cli.call(ENTRIES[entry], [*given, *more, "runtime.device=cpu"], capture)
        assert code == 0, out + err
        told.append(out)
    return told


def test_a_data_set(monkeypatch: pytest.MonkeyPatch, configs: Path, tmp_path: Path, capsys: Capture) -> None:
    page = (PAGES / "dataset.md").read_text()
    files = blocks(page)
    code, keys = files["pipeline/datasets/blobs.py"], files["configs/dataset/blobs.yaml"]
    assert len(code.splitlines()) < 30
    module = add(monkeypatch, DATASETS, "pipeline/datasets/blobs.py", code)
    (configs / "dataset" / "blobs.yaml").write_text(keys)
    (tmp_path / "D").mkdir()
    pixels, label = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8), np.arange(16) % 10
    arrays = {"train_pixels": pixels, "train_label": label, "test_pixels": pixels[:8], "test_label": label[:8]}
    np.savez(tmp_path / "D" / "blobs.npz", **arrays)  # type: ignore[arg-type]
    told = run_all(page, tmp_path, monkeypatch, capsys)
    assert len(told) == 3 and '"dataset": "blobs"' in told[-1] and '"samples": 8' in told[-1]
    np.testing.assert_array_equal(module.load_blobs(tmp_path / "D", "test").pixels_NHWC, pixels[:8])
    for content in (b"", b"not a file of arrays"):
        (tmp_path / "D" / "blobs.npz").write_bytes(content)
        ended, _, err = cli.call(train, ["dataset=blobs", f"data.root={tmp_path / 'D'}", "model=resnet8"], capsys)
        assert ended == 2 and err.startswith("error: ") and err.count("\n") == 1 and "blobs.npz" in err


def test_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    page = (PAGES / "network.md").read_text()
    code = blocks(page)["pipeline/models/plainnet.py"]
    add(monkeypatch, MODELS, "pipeline/models/plainnet.py", code)
    network = build("plainnet", num_classes=7, width=4).eval()
    assert isinstance(network, Network)
    image_BCHW = torch.randn(2, 3, 16, 16)
    plain, asked = network(image_BCHW), network(image_BCHW, features=True)
    torch.testing.assert_close(plain.logits_BK, asked.logits_BK, rtol=0, atol=0)
    assert plain.features == plain.preact_features == () and asked.features[0] is asked.preact_features[0]
    assert [f.shape[1] for f in asked.features] == network.stage_channels == [4, 8, 16]
    for feature, preact in zip(asked.features, asked.preact_features, strict=True):
        torch.testing.assert_close(feature, preact.relu(), rtol=0, atol=0)
    members = set(re.findall(r"^\| `(\w+)", page, re.MULTILINE))
    assert members == {n for n in vars(Network) if not n.startswith("_")} | {"forward"}
    mini_cifar.write(tmp_path / "D", train=16, test=8)
    assert len(run_all(page, tmp_path, monkeypatch, capsys)) == 2
