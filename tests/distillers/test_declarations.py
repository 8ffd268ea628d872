"""What every method declares of itself: variants, gathering, first stages, forms, its YAML, the length of its file."""

import inspect
from pathlib import Path

import pytest
import torch
from distillers.features_b import STUDENT, TEACHER, batch_of, output, setting_for, stopped
from torch import Tensor

from pipeline import distillers
from pipeline.config.layers import CONFIGS
from pipeline.contracts import Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.models.cam import FORMS

NAMES = DISTILLERS.names()
ALONE = [name for name in NAMES if DISTILLERS.get(name).stands_alone]
EVERY = [(name, variant) for name in ALONE for variant in DISTILLERS.get(name).variants]
FOLDER = Path(distillers.__file__).parent
every_method = pytest.mark.parametrize("name", NAMES)


def own_source(kind: type[Distiller]) -> str:
    """Of the class and of what it inherits, the contract apart."""
    return "".join(inspect.getsource(c) for c in kind.__mro__ if c.__module__.startswith("pipeline.distillers"))


@every_method
def test_who_gathers_says_so_and_nobody_else(name: str) -> None:
    kind = DISTILLERS.get(name)
    assert ("self.gather" in own_source(kind)) == kind.relates_samples


@every_method
def test_variants_are_explained(name: str) -> None:
    variants = DISTILLERS.get(name).variants
    assert variants and "default" not in variants
    for variant, meaning in variants.items():
        assert variant == variant.lower().strip() and len(meaning.split()) >= 2, variant


@every_method
def test_where_variants_differ_the_docstring_says_why_the_first_is_the_default(name: str) -> None:
    kind = DISTILLERS.get(name)
    text = " ".join(inspect.getdoc(kind).split())  # type: ignore[union-attr]
    assert len(kind.variants) == 1 or "default" in text
    assert text


def test_every_method_has_a_yaml_and_every_yaml_a_method() -> None:
    assert {path.stem for path in (CONFIGS / "method").glob("*.yaml")} == set(NAMES)


def test_no_file_of_the_methods_is_long() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in FOLDER.rglob("*.py")}
    assert len(lines) > 40 and {name: n for name, n in lines.items() if n > 130} == {}


@every_method
def test_what_is_said_of_a_variant_is_said_of_one_that_exists(name: str) -> None:
    kind = DISTILLERS.get(name)
    for declared in ("forms", "teacher_in_train_mode", "teacher_probed"):
        assert set(getattr(kind, declared, ())) <= set(kind.variants), declared
    assert set(kind.forms.values()) <= set(FORMS)


def test_who_declares_what() -> None:
    def those(declared: str) -> dict[str, set[str]]:
        return {n: set(found) for n in NAMES if (found := getattr(DISTILLERS.get(n), declared, ()))}

    assert those("forms") == {"catkd": {"original", "paper"}}
    assert those("teacher_in_train_mode") == {"ofd": {"original", "mdistiller", "paper"}, "r2kd": {"original"}}
    assert those("teacher_probed") == {"fitnet": {"mdistiller"}, "vid": {"mdistiller"}}


SMALL = {"crd": {"K": 8, "dim": 7}}
CLASS_MAPS = STUDENT._replace(features=(*STUDENT.features[:-1], (STUDENT.classes, 4, 4)))


def fitting(name: str) -> Setting:
    """A run that the method takes: its networks in class-activation form or of equal widths where it wants that."""
    equal = {"catkd": (CLASS_MAPS, CLASS_MAPS), "kdsvd": (STUDENT, STUDENT), "fsp": (STUDENT, STUDENT)}
    return setting_for(name, *equal.get(name, (STUDENT, TEACHER)))


def outputs_for(setting: Setting) -> tuple[ModelOutput, ModelOutput]:
    assert setting.teacher is not None
    sides = [output(shapes, seed) for seed, shapes in enumerate((setting.student, setting.teacher))]
    maps = [
        tuple(torch.rand(6, *s, dtype=torch.float64) for s in x.features) for x in (setting.student, setting.teacher)
    ]
    student, teacher = (side._replace(features=f) for side, f in zip(sides, maps, strict=True))
    for x in student.features:
        x.requires_grad_()
    return student, stopped(teacher)


def loss_of(method: Distiller, student: ModelOutput, teacher: ModelOutput) -> Tensor:
    batch = batch_of()
    asks = type(method).extra_batches is not Distiller.extra_batches and method.streams
    views = [View(student, teacher, batch)] if asks else []
    terms = method(student, teacher if method.needs else None, batch, torch.tensor(2.5), *views)
    return torch.stack([term.reshape(()) for term in terms.values()]).sum()


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_every_variant_teaches(name: str, variant: str) -> None:
    """Each builds, gives finite terms, and its loss has a gradient into the student."""
    kind, setting = DISTILLERS.get(name), fitting(name)
    torch.manual_seed(0)
    method = kind(kind.Config(**SMALL.get(name, {})), setting, variant).double()
    assert method.variant == variant
    if method.teacher_pass:
        method.learn(method.digest(torch.randn(40, 5, dtype=torch.float64)), torch.arange(40) % 5)
    student, teacher = outputs_for(setting)
    loss = loss_of(method, student, teacher)
    loss.backward()
    wanted = [student.logits_BK, student.pooled_BD, *student.features, *student.preact_features]
    found = [x.grad for x in wanted if x.grad is not None]
    assert loss.isfinite() and any(g.abs().sum() > 0 for g in found)


@every_method
def test_first_stages_follow_the_contract(name: str) -> None:
    """Own modules of a first stage are frozen outside it and there where, and only where, it trains any."""
    for variant in DISTILLERS.get(name).variants:
        kind, setting = DISTILLERS.get(name), fitting(name)
        method = kind(kind.Config(**SMALL.get(name, {})), setting, variant)
        own = [p for module in method.first_stage_modules() for p in module.parameters()]
        assert not any(p.requires_grad for p in own)
        assert bool(own) == (method.first_stage is not None and "own" in method.first_stage_trains)
        if method.first_stage is not None:
            assert kind.first_stage_terms is not Distiller.first_stage_terms
            assert method.student_features and Signal.FEATURES in method.needs
