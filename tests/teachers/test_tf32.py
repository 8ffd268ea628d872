"""TF32 on a CPU: emulated in the convolutions of a teacher, and told by a stand-in for the switch."""

import copy
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import cli
import mini_cifar
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cache_jobs import BATCH, teacher_file, words
from torch import Tensor, nn

from data_prep import cache_teacher, verify_cache
from pipeline import train
from pipeline.config import RuntimeConfig
from pipeline.contracts import InputError
from pipeline.engine.distributed import tf32
from pipeline.engine.distributed.tf32 import header, settle
from pipeline.models.build import build
from pipeline.models.folding import fold_norms
from pipeline.teachers.cache_format import MANIFEST, Layout, Manifest, read_manifest
from pipeline.teachers.codecs import Plain, errors, rounding

Capture = pytest.CaptureFixture[str]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONVOLVED = F.conv2d


def rounded(x: Tensor) -> Tensor:
    """With 10 bits of mantissa, to the nearest."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def convolved(pieces: int, x: Tensor, weight: Tensor, bias: Tensor | None = None, *where: object) -> Tensor:
    """A convolution of rounded factors, whose sum runs over `pieces` of the channels, from the last to the first."""
    pairs = [*zip(rounded(x).chunk(pieces, 1), rounded(weight).chunk(pieces, 1), strict=True)]
    y = sum(CONVOLVED(one, other, None, *where) for one, other in reversed(pairs))
    assert isinstance(y, Tensor)
    return y if bias is None else y + bias[:, None, None]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Convolutions of this process run as tensor cores do."""
    monkeypatch.setattr(F, "conv2d", functools.partial(convolved, 2))
    yield monkeypatch


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    """A resnet32x4 whose batch norms have seen images."""
    torch.manual_seed(0)
    network = build("resnet32x4", num_classes=100)
    with torch.no_grad():
        network(torch.rand(4, 3, 16, 16))
    return network.eval()


@torch.no_grad()
def logits(network: nn.Module, image_BCHW: Tensor) -> Tensor:
    found: Tensor = network(image_BCHW).logits_BK
    return found


def share(found_BK: Tensor, wanted_BK: Tensor, *where: str) -> float:
    """Of what is allowed, where=: TF32 of one side and the other."""
    return errors(found_BK, wanted_BK, Plain(), rounding("off", *where))[1]


def test_the_bound_is_wide_enough_for_tf32_and_too_narrow_for_anything_else(
    teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_BCHW = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    folded = fold_norms(copy.deepcopy(teacher), image_BCHW[:1])
    exact_BK, shifted_BK = logits(folded, image_BCHW), logits(folded, image_BCHW.roll(1, dims=3))
    monkeypatch.setattr(F, "conv2d", functools.partial(convolved, 1))
    written_BK, other_BK = logits(folded, image_BCHW), logits(teacher, image_BCHW)
    monkeypatch.setattr(F, "conv2d", functools.partial(convolved, 2))
    live_BK = logits(folded, image_BCHW)
    for found_BK, wanted_BK, where in (
        (written_BK, live_BK, ("convolutions", "convolutions")),
        (other_BK, live_BK, ("on", "on")),
        (written_BK, exact_BK, ("convolutions", "off")),
        (exact_BK, live_BK, ("off", "on")),
    ):
        assert share(found_BK, wanted_BK, "off", "off") > 5  # the bound of float32: 1e-5 of the largest
        assert share(found_BK, wanted_BK, *where) < 0.5
    further = copy.deepcopy(teacher)
    further.get_submodule("classifier").weight.data *= 1.02  # type: ignore[operator,union-attr]
    for wrong_BK in (shifted_BK, logits(further, image_BCHW), logits(build("resnet32x4", num_classes=100), image_BCHW)):
        assert share(wrong_BK, live_BK, "convolutions", "convolutions") > 2


def test_the_bound_that_two_runs_have() -> None:
    assert rounding("off", "off", "off") == "off" and rounding("off") == "off"
    assert {rounding("off", "off", "on"), rounding("off", "convolutions", "off")} == {"tf32"}
    assert rounding("bf16", "on", "on") == "bf16"


@pytest.fixture
def switches() -> Iterator[None]:
    """Torch's, put back."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(
    ("asked", "convolutions", "products", "in_force"),
    [("auto", True, False, "convolutions"), ("on", True, True, "on"), ("off", False, False, "off")],
)
def test_switches_of_a_gpu(
    asked: str, convolutions: bool, products: bool, in_force: str, switches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = RuntimeConfig.model_validate({"tf32": asked})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert settle(runtime, CUDA) == in_force
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (convolutions, products)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert settle(runtime, CUDA) == "off"


def test_a_cpu_has_none_and_its_switches_stay(switches: None) -> None:
    for convolutions, products in ((True, False), (False, True)):
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
        assert {settle(RuntimeConfig.model_validate({"tf32": t}), CPU) for t in ("auto", "on", "off")} == {"off"}
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (convolutions, products)
    assert header(RuntimeConfig(), CPU, "off") == "autocast off, TF32 off"
    told = header(RuntimeConfig(tf32="on", amp="bf16"), CPU, "off")
    assert told == "autocast bf16, TF32 off: runtime.tf32=on has no effect, a CPU has none"
    assert header(RuntimeConfig(), CUDA, "convolutions").startswith("autocast off, TF32 in convolutions (")


# ---- a cache, written and read ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = mini_cifar.write(tmp_path_factory.mktemp("cifar"), train=2 * BATCH, test=4)
    teacher_file(folder)
    return folder


def written(root: Path, out: Path, capsys: Capture) -> Path:
    code, text, err = cli.call(cache_teacher, words(root, f"cache.out={out}", "cache.views=1"), capsys)
    assert code == 0, text + err
    return out


def trained(root: Path, cache: Path, capsys: Capture, *more: str) -> tuple[int, str, str]:
    run = [f"run.dir={cache.parent}", "run.name=run", "run.resume=never", "run.limit_steps=1", "optim.epochs=1"]
    keys = ["method=kd", "teacher.source=cached", f"teacher.cache={cache}", "optim.milestones=[]", *run, *more]
    return cli.call(train, words(root, *keys, "log.tensorboard=false"), capsys)


def says(monkeypatch: pytest.MonkeyPatch, in_force: str) -> None:
    monkeypatch.setattr(tf32, "settle", lambda runtime, device: in_force)


def test_what_was_in_force_is_written_down_and_compared_by_its_bound(
    root: Path, tmp_path: Path, emulated: pytest.MonkeyPatch, capsys: Capture
) -> None:
    says(emulated, "convolutions")
    cache = written(root, tmp_path / "cache", capsys)
    assert json.loads((cache / MANIFEST).read_text())["identity"]["precision"]["tf32"] == "convolutions"
    emulated.setattr(F, "conv2d", functools.partial(convolved, 4))
    code, out, err = trained(root, cache, capsys)
    assert code == 0, err
    assert "autocast off, TF32 in convolutions" in out
    assert json.loads((tmp_path / "run/summary.json").read_text())["tf32"] == "convolutions"
    assert cli.call(verify_cache, [str(cache)], capsys)[0] == 0
    says(emulated, "off")  # the records' rounding is enough for the wider bound
    emulated.setattr(F, "conv2d", CONVOLVED)
    assert trained(root, cache, capsys)[0] == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["tf32"] == "off"
    code, out, _ = cli.call(verify_cache, [str(cache)], capsys)
    assert code == 0 and "precision.tf32 is convolutions there, off here" in out
    code, _, err = trained(root, cache, capsys, "runtime.tf32=off")
    assert code == 2 and "precision.tf32 is convolutions there, off here" in err and err.count("\n") == 1


@pytest.mark.slow
def test_other_pixels_are_still_refused(
    root: Path, tmp_path: Path, emulated: pytest.MonkeyPatch, capsys: Capture
) -> None:
    says(emulated, "on")
    cache = written(root, tmp_path / "cache", capsys)
    path = cache / "view-00000.logits.npy"
    np.save(path, np.roll(np.load(path), 1, axis=0))  # each image has its neighbour's
    manifest = json.loads((cache / MANIFEST).read_text())
    manifest["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (cache / MANIFEST).write_text(json.dumps(manifest))
    code, _, err = trained(root, cache, capsys)
    assert code == 2 and "differ from the live teacher's by" in err
    assert cli.call(verify_cache, [str(cache)], capsys)[0] == 1


@pytest.mark.slow
def test_without_tf32_the_bound_is_that_of_float32(
    root: Path, tmp_path: Path, emulated: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cache = written(root, tmp_path / "cache", capsys)
    emulated.setattr(F, "conv2d", CONVOLVED)
    code, _, err = trained(root, cache, capsys)
    assert code == 2 and "differ from the live teacher's by" in err


@pytest.mark.slow
def test_caches_of_before_the_key_go_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cache = written(root, tmp_path / "cache", capsys)
    manifest = json.loads((cache / MANIFEST).read_text())
    assert manifest["identity"]["precision"].pop("tf32") == "off"
    (cache / MANIFEST).write_text(json.dumps(manifest))
    assert read_manifest(cache).tf32 == "off"
    assert cli.call(cache_teacher, words(root, f"cache.out={cache}", "cache.views=1"), capsys)[1].endswith(
        "already complete\n"
    )
    assert trained(root, cache, capsys, "runtime.tf32=off")[0] == 0
    says(monkeypatch, "convolutions")
    assert trained(root, cache, capsys)[0] == 0
    code, _, err = cli.call(cache_teacher, words(root, f"cache.out={cache}", "cache.views=1"), capsys)
    assert code == 2 and "precision.tf32 is off there, convolutions here" in err


@pytest.mark.parametrize(("name", "value"), [("tf32", "maybe"), ("tf32", 1), ("tf32", None), ("amp", "tf32")])
def test_a_manifest_says_what_there_is(name: str, value: object, tmp_path: Path) -> None:
    layout = Layout(samples=3, classes=5, pooled=0, views=1, dtype="fp32")
    files = {"view-00000.logits.npy": {"bytes": 188, "sha256": "0"}}
    identity = {"precision": {"amp": "off", "fold": False, name: value}}
    (tmp_path / MANIFEST).write_text(Manifest(layout=layout, identity=identity, files=files).text())
    with pytest.raises(InputError, match=rf"is damaged: identity\.precision\.{name} is "):
        read_manifest(tmp_path)
