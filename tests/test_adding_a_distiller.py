"""The example of docs/adding_a_distiller.md, run as it stands there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pytest
import short_runs
import torch
import torch.nn.functional as F
import yaml

from pipeline import train
from pipeline.contracts import Batch, Distiller, ModelOutput
from pipeline.distillers import DISTILLERS

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "adding_a_distiller.md"


def blocks() -> tuple[str, str]:
    """The Python file and the YAML file in the document."""
    text = DOCUMENT.read_text()
    block = re.search(
        r"    # pipeline/distillers/logit_mse\.py\n(.*?)\n    # configs/method/logit_mse\.yaml\n(.*?)\n\n",
        text,
        re.DOTALL,
    )
    assert block is not None
    code, keys = (re.sub(r"^    ", "", part, flags=re.MULTILINE) for part in block.groups())
    return code, keys


@pytest.mark.parametrize("variant", ["default", "paper", "centred"])
def test_the_example_is_a_method(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    DISTILLERS.names()  # all modules are imported before the copies are made
    monkeypatch.setattr(DISTILLERS, "_entries", dict(DISTILLERS._entries))
    monkeypatch.setattr(DISTILLERS, "_aliases", dict(DISTILLERS._aliases))
    code, keys = blocks()
    exec(compile(code, "logit_mse.py", "exec"), {"__name__": "logit_mse"})
    kind = DISTILLERS.get("logits")
    assert kind is DISTILLERS.get("logit_mse")
    method = kind(kind.Config(**yaml.safe_load(keys)["method_args"]), None, variant)
    student, teacher = torch.randn(2, 4, 10, requires_grad=True)
    label = torch.arange(4)
    batch = Batch(image_BCHW=torch.zeros(4, 3, 8, 8), label_B=label, index_B=label)
    terms = method(ModelOutput(student, student), ModelOutput(teacher.detach(), teacher), batch, torch.zeros(()))
    gap = student - teacher
    gap = gap - gap.mean(dim=1, keepdim=True) if variant == "centred" else gap
    assert terms["mse"].item() == pytest.approx(0.1 * (gap**2).mean().item(), rel=1e-6)
    assert terms["ce"].requires_grad and method.added_parameters() == 0


def test_the_example_with_a_module_trains_it(
    monkeypatch: pytest.MonkeyPatch, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DISTILLERS.names()
    monkeypatch.setattr(DISTILLERS, "_entries", dict(DISTILLERS._entries))
    block = re.search(r"    # pipeline/distillers/repr_mse\.py\n((?:    .*\n|\n)+)", DOCUMENT.read_text())
    assert block is not None
    exec(compile(re.sub(r"^    ", "", block[1], flags=re.MULTILINE), "repr_mse.py", "exec"), {"__name__": "repr_mse"})
    (configs / "method" / "repr_mse.yaml").write_text("")
    root = short_runs.make_data(tmp_path)
    words = ("method=repr_mse", "teacher.model=resnet8x4", "teacher.checkpoint=none")
    said = short_runs.finish(root, "own", capsys, *words)
    assert "ce " in said and "pooled " in said
    kept = torch.load(root / "own" / "checkpoints" / "last.pt", weights_only=True)["distiller"]
    assert kept["project.weight"].shape == (256, 64)
    refused = short_runs.refused(root, "alone", capsys, "method=repr_mse")
    assert "teacher" in refused


def test_what_the_document_lists_exists() -> None:
    """Attributes and methods of its second table are the contract's or some method's."""
    text = DOCUMENT.read_text().partition("## What it may declare")[2]
    named = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)", row)}
    kinds = [DISTILLERS.get(name) for name in DISTILLERS.names()]
    assert len(named) > 12 and [n for n in named if not any(hasattr(kind, n) for kind in kinds)] == []


ODD: dict[str, tuple[Any, str]] = {
    "nothing": (lambda ce_B: {}, "returned {}"),
    "no mapping": (lambda ce_B: ce_B.mean(), "returned a Tensor"),
    "rows": (lambda ce_B: {"ce": ce_B}, "returned {ce: [8]}"),
    "numbers": (lambda ce_B: {"ce": ce_B.mean(), "x": 1.0}, "returned {ce: [], x: float}"),
}


@pytest.fixture
def method(
    monkeypatch: pytest.MonkeyPatch, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a run says whose method has these members and is called mine; "" where it comes to its end."""

    def run(**members: Any) -> str:
        DISTILLERS.names()
        monkeypatch.setattr(DISTILLERS, "_entries", dict(DISTILLERS._entries))
        DISTILLERS.register("mine")(type("Mine", (Distiller,), {"Config": DISTILLERS.get("vanilla").Config, **members}))
        (configs / "method" / "mine.yaml").write_text("")
        root = short_runs.make_data(tmp_path)
        words = short_runs.words(root, "own", "method=mine", *short_runs.TAUGHT[:2], "optim.epochs=1")
        code, out, err = cli.call(train, words, capsys)
        assert (code, err.count("\n")) == ((2, 1) if err else (0, 0)), out + err
        return err

    return run


@pytest.mark.parametrize("what", ODD)
def test_terms_that_are_no_named_scalars_are_one_line(what: str, method: Callable[..., str]) -> None:
    terms, message = ODD[what]

    def forward(self: Distiller, student: ModelOutput, teacher: ModelOutput, batch: Batch, *_: Any) -> Any:
        return terms(F.cross_entropy(student.logits_BK, batch.label_B, reduction="none"))

    assert f"Mine.forward {message}; it must return named scalar tensors" in method(forward=forward)


def test_a_constructor_that_forgets_the_contract_is_one_line(method: Callable[..., str]) -> None:
    def constructor(self: Distiller, config: Any, setting: Any = None, variant: str = "default") -> None:
        self.config = config

    assert "method mine: its __init__ must call super().__init__(config, setting, variant)" in method(
        __init__=constructor
    )


def test_names_of_its_own_attributes_are_free(method: Callable[..., str]) -> None:
    """`parts` and `method` once told a combination and a first stage from other methods."""

    def constructor(self: Distiller, config: Any, setting: Any = None, variant: str = "default") -> None:
        Distiller.__init__(self, config, setting, variant)
        self.parts, self.method = [1, 2], "sum"  # type: ignore[assignment]

    def forward(self: Distiller, student: ModelOutput, teacher: ModelOutput, batch: Batch, *_: Any) -> Any:
        return {"ce": self.task_loss(student.logits_BK, batch)}

    assert method(__init__=constructor, forward=forward) == ""
