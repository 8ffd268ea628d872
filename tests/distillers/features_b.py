"""Small networks' shapes, outputs and settings for the tests of the second feature group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Shapes
from pipeline.distillers import DISTILLERS

CLASSES, ROWS, SAMPLES = 5, 6, 40
STUDENT = Shapes(CLASSES, 4, ((3, 8, 8), (3, 8, 8), (4, 4, 4)), ((3, 8, 8), (3, 8, 8), (4, 4, 4)))
TEACHER = Shapes(CLASSES, 6, ((3, 8, 8), (5, 8, 8), (6, 4, 4)), ((3, 8, 8), (5, 8, 8), (6, 4, 4)))
NAMES = ("crd", "ofd", "reviewkd", "srrl", "semckd", "simkd", "ab", "fsp", "ft")
CASES = [(name, variant) for name in NAMES for variant in DISTILLERS.get(name).variants]
# Arguments at which a method runs on 40 samples of maps of 4 and 8 pixels.
ARGUMENTS: dict[str, dict[str, Any]] = {"crd": {"K": 8, "dim": 7}}


def setting_for(name: str, student: Shapes = STUDENT, teacher: Shapes = TEACHER, **given: Any) -> Setting:
    """Everything that a method may want. FSP compares networks of equal width."""
    teacher = {"fsp": student}.get(name, teacher)
    norms = tuple(nn.BatchNorm2d(shape[0]) for shape in teacher.preact[1:])
    whole = {
        "classifier": nn.Linear(teacher.pooled, teacher.classes), "norms": norms,
        "label_N": torch.arange(SAMPLES) % CLASSES, "batch_size": ROWS,
    }  # fmt: skip
    return Setting(student=student, teacher=teacher, **whole | given)


def built(name: str, variant: str = "default", dtype: torch.dtype = torch.float64, **given: Any) -> Distiller:
    """The method with first weights from seed 0. given: keys of the setting, and config={...}."""
    kind = DISTILLERS.get(name)
    torch.manual_seed(0)
    config = ARGUMENTS.get(name, {}) | given.pop("config", {})
    return kind(kind.Config(**config), setting_for(name, **given), variant).to(dtype)


def output(shapes: Shapes, seed: int, rows: int = ROWS, dtype: torch.dtype = torch.float64) -> ModelOutput:
    """Random maps, a pooled vector and logits; leaves that carry a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    preact = tuple(leaf(*shape) for shape in shapes.preact)
    features = tuple(m.detach().relu().requires_grad_() for m in preact) or tuple(leaf(*s) for s in shapes.features)
    return ModelOutput(leaf(shapes.classes), leaf(shapes.pooled), features, preact)


def leaves(out: ModelOutput) -> list[Tensor]:
    return [out.logits_BK, out.pooled_BD, *out.features, *out.preact_features]


def stopped(out: ModelOutput) -> ModelOutput:
    return mapped(out, Tensor.detach)


def mapped(out: ModelOutput, change: Any) -> ModelOutput:
    """Every tensor changed."""
    maps = (tuple(change(m) for m in part) for part in (out.features, out.preact_features))
    return ModelOutput(change(out.logits_BK), change(out.pooled_BD), *maps)


def rows_of(out: ModelOutput, start: int, stop: int) -> ModelOutput:
    return mapped(out, lambda x: x[start:stop])


def batch_of(index: Sequence[int] = range(ROWS)) -> Batch:
    """Rows of the training set whose labels are those of `setting_for`."""
    index_B = torch.tensor(list(index))
    return Batch(image_BCHW=torch.zeros(len(index_B), 3, 8, 8), label_B=index_B % CLASSES, index_B=index_B)


def losses(method: Distiller, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
    """All terms, those of a first stage too."""
    terms: dict[str, Tensor] = dict(method(student, teacher, batch, torch.tensor(2.5)))
    if method.first_stage is not None:
        first = method.first_stage_terms(student, teacher, batch)
        terms |= {f"first/{name}": term for name, term in first.items()}
    return terms


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([term.reshape(()) for term in terms.values()]).sum()
