"""The example of docs/adding_a_method.md, run as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.contracts import Batch, ModelOutput
from pipeline.distillers import DISTILLERS

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "adding_a_method.md"


def example() -> str:
    """The Python file in the document."""
    text = DOCUMENT.read_text()
    block = re.search(r"    # pipeline/distillers/logit_mse\.py\n(.*?)\n    # configs/method", text, re.DOTALL)
    assert block is not None
    return re.sub(r"^    ", "", block.group(1), flags=re.MULTILINE)


def test_the_example_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DISTILLERS, "_entries", dict(DISTILLERS._entries))
    module: dict[str, object] = {"__name__": "logit_mse"}
    exec(compile(example(), "logit_mse.py", "exec"), module)
    kind = DISTILLERS.get("logit_mse")
    method = kind(kind.Config(weight=0.5))
    student, teacher = torch.randn(2, 4, 10, requires_grad=True)
    label = torch.arange(4)
    batch = Batch(image_BCHW=torch.zeros(4, 3, 8, 8), label_B=label, index_B=label)
    terms = method(ModelOutput(student, student), ModelOutput(teacher.detach(), teacher), batch, torch.zeros(()))
    assert terms["mse"].item() == pytest.approx(0.5 * ((student - teacher) ** 2).mean().item(), rel=1e-6)
