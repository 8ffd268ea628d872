"""A user's own methods and networks that are not what docs/ asks for: one line each, which names them."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cli
import pytest
import short_runs
from torch import Tensor, nn

from pipeline import train
from pipeline.builders import networks
from pipeline.contracts import Distiller, InputError, ModelOutput, Signal
from pipeline.distillers import DISTILLERS
from pipeline.models import MODELS
from pipeline.registry import Registry, Unregistered

TEACHER = ("teacher.model=resnet8", "teacher.checkpoint=none")
Capture = pytest.CaptureFixture[str]


class Own(Distiller):
    """Its terms are those of `make`, which a test chooses."""

    Config = DISTILLERS.get("vanilla").Config
    make: ClassVar[Callable[..., Any]]
    needs = Signal.LOGITS

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, *more: Any) -> Any:
        return type(self).make(self, student, teacher, *more)


TERMS: dict[str, tuple[Callable[..., Any], str]] = {
    "no scalar": (
        lambda self, s, t, batch, *_: {"ce": self.task_loss(s.logits_BK, batch), "gap": s.logits_BK - t.logits_BK},
        "Own.forward returned {ce: [], gap: [8, 100]}; it must return named scalar tensors",
    ),
    "a number": (
        lambda self, s, *_: {"gap": 1.0},
        "Own.forward returned {gap: float}; it must return named scalar tensors",
    ),
    "no dict": (
        lambda self, s, t, batch, *_: self.task_loss(s.logits_BK, batch),
        "Own.forward returned a Tensor; it must return named scalar tensors",
    ),
    "nothing": (lambda self, s, *_: None, "Own.forward returned a NoneType; it must return named scalar tensors"),
    "no terms": (lambda self, s, *_: {}, "Own.forward returned {}; it must return named scalar tensors"),
    "no gradient": (lambda self, s, t, *_: {"gap": t.logits_BK.sum()}, "method own: no term depends on the student"),
    "student's maps": (
        lambda self, s, *_: {"gap": s.features[-1].mean()},
        "method own reads stage maps of the student, and does not ask for them: it needs student_features = True",
    ),
    "teacher's maps": (
        lambda self, s, t, *_: {"gap": sum((m.mean() for m in t.features), s.logits_BK.sum()), "x": t.features[0]},
        "method own reads stage maps of the teacher, and does not ask for them: it needs Signal.FEATURES among its",
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_runs.make_data(tmp_path_factory.mktemp("own"))


def add(monkeypatch: pytest.MonkeyPatch, registry: Registry[Any], name: str, entry: Any) -> None:
    registry.names()
    for kept in ("_entries", "_aliases"):
        monkeypatch.setattr(registry, kept, dict(getattr(registry, kept)))
    registry.register(name)(entry)


def added(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, configs: Path) -> None:
    monkeypatch.setattr(Own, "make", make, raising=False)
    add(monkeypatch, DISTILLERS, "own", Own)
    (configs / "method" / "own.yaml").write_text("")


@pytest.mark.parametrize("case", TERMS)
def test_terms(case: str, root: Path, monkeypatch: pytest.MonkeyPatch, configs: Path, capsys: Capture) -> None:
    make, line = TERMS[case]
    added(make, monkeypatch, configs)
    told = short_runs.refused(root, case[:5], capsys, "method=own", *TEACHER)
    assert line in told


def test_the_part_of_a_combination_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, configs: Path, capsys: Capture
) -> None:
    added(TERMS["no dict"][0], monkeypatch, configs)
    told = short_runs.refused(root, "parts", capsys, "method=kd+own", *TEACHER)
    assert "error: method own: forward gives a Tensor, not a dict of named scalar terms (" in told


def test_another_error_keeps_its_traceback(
    root: Path, monkeypatch: pytest.MonkeyPatch, configs: Path, capsys: Capture
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("a defect of its own")

    added(fails, monkeypatch, configs)
    with pytest.raises(RuntimeError, match="a defect of its own"):
        cli.call(train, short_runs.words(root, "other", "method=own", *TEACHER), capsys)


class Net(nn.Module):
    """A stem and a stage; `change` of its output is the test's."""

    change: ClassVar[Callable[[ModelOutput], Any]]
    listed: ClassVar[slice] = slice(None)

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(8, num_classes)

    def stages(self) -> list[nn.Module]:
        return [self.conv1, self.conv2][self.listed]

    @property
    def stage_channels(self) -> list[int]:
        return [stage.out_channels for stage in (self.conv1, self.conv2)][self.listed]

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return []

    def forward(self, image_BCHW: Tensor, features: bool = False) -> Any:
        stem_BCHW = self.conv1(image_BCHW)
        map_BCHW = self.conv2(stem_BCHW)
        pooled_BD = map_BCHW.mean((2, 3))
        output = ModelOutput(self.fc(pooled_BD), pooled_BD, (stem_BCHW, map_BCHW) if features else ())
        return type(self).change(output)


NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "tensor": (
        {"change": staticmethod(lambda o: o.logits_BK)},
        "model ownnet: forward gives a Tensor, not a ModelOutput",
    ),
    "tuple": ({"change": staticmethod(tuple)}, "model ownnet: forward gives a tuple, not a ModelOutput"),
    "classes": (
        {"change": staticmethod(lambda o: o._replace(logits_BK=o.logits_BK[:, :3]))},
        "model ownnet: logits_BK of one image is [1, 3], not [1, 10]",
    ),
    "pooled": (
        {"change": staticmethod(lambda o: o._replace(pooled_BD=o.pooled_BD[0]))},
        "model ownnet: pooled_BD of one image is [8], not [1, D]",
    ),
    "no stem": (
        {"change": staticmethod(lambda o: o), "listed": slice(1, None)},
        "model ownnet: forward gives 2 maps (the stem's first), stages() has 1",
    ),
    "preact": (
        {"change": staticmethod(lambda o: o._replace(preact_features=o.features[1:]))},
        "model ownnet: forward gives 2 maps (the stem's first), preact_features has 1",
    ),
    "channels": (
        {"change": staticmethod(lambda o: o), "listed": slice(None, None, -1)},
        "model ownnet: map 0 has 4 channels, stage_channels says 8",
    ),
    "signature": (
        {"forward": lambda self, image_BCHW: None},
        "model ownnet: forward takes no features=False: forward(image_BCHW, features=False)",
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, line = NETWORKS[case]
    add(monkeypatch, MODELS, "ownnet", type("Changed", (Net,), changes))
    with pytest.raises(InputError) as caught:
        networks.make("ownnet", num_classes=10, image_size=12)
    assert str(caught.value) == line


@pytest.mark.parametrize("method", ["at", "vid", "simkd", "sp", "ft", "reviewkd", "srrl"])
def test_a_network_without_maps(method: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    kind = type("Mapless", (Net,), {"change": staticmethod(lambda o: o._replace(features=()))})
    add(monkeypatch, MODELS, "ownnet", kind)
    variant = "original" if method == "srrl" else "default"
    words = (f"method={method}", f"variant={variant}", *TEACHER, "model=ownnet")
    assert "the student has no stage maps" in short_runs.refused(root, method, capsys, *words)


def test_a_name_registered_twice_names_both_places() -> None:
    registry: Registry[int] = Registry("thing", "none")
    registry.register("one", "uno")(1)
    with pytest.raises(
        Unregistered, match=r"thing 'uno' is registered twice: \S+, line \d+, and \S+, line \d+"
    ) as caught:
        registry.register("two", "UNO")(2)
    assert str(caught.value).count("test_own_parts.py") == 2


def test_a_file_that_is_no_python_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, root: Path
) -> None:
    (tmp_path / "ownparts").mkdir()
    (tmp_path / "ownparts" / "__init__.py").write_text("")
    (tmp_path / "ownparts" / "broken.py").write_text("x = 1\ndef f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(DISTILLERS, "package", "ownparts")
    monkeypatch.setattr(DISTILLERS, "_loaded", False)
    told = short_runs.refused(root, "syntax", capsys, "method=kd", *TEACHER)
    assert told.startswith("error: ") and "broken.py, line 2: " in told
    monkeypatch.delitem(sys.modules, "ownparts")
