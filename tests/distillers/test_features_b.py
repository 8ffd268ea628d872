"""CRD, OFD, ReviewKD, SRRL, SemCKD, SimKD, AB, FSP, FT: every variant runs, trains what it owns, stays finite."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from distillers.features_b import (
    CASES,
    CLASSES,
    NAMES,
    ROWS,
    STUDENT,
    TEACHER,
    batch_of,
    built,
    leaves,
    losses,
    mapped,
    output,
    setting_for,
    stopped,
    total,
)  # fmt: skip
from torch import Tensor

from pipeline.contracts import InputError, ModelOutput, Shapes
from pipeline.distillers import DISTILLERS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "method"


def teacher_for(name: str, seed: int = 1, **given: Any) -> ModelOutput:
    return stopped(output({"fsp": STUDENT}.get(name, TEACHER), seed, **given))


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_what_trains_gets_a_gradient_and_nothing_else(name: str, variant: str) -> None:
    method = built(name, variant)
    student = output(STUDENT, 0)
    total(method(student, teacher_for(name), batch_of(), torch.tensor(2.5))).backward()
    for key, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert student.logits_BK.grad is not None


@pytest.mark.parametrize("name", ["ab", "fsp", "ft"])
def test_the_first_stage_trains_what_it_says(name: str) -> None:
    method, student = built(name), output(STUDENT, 0)
    assert method.first_stage is not None and method.first_stage.epochs == 30
    for module in method.first_stage_modules():
        assert not any(p.requires_grad for p in module.parameters())
        module.requires_grad_(True)
    total(method.first_stage_terms(student, teacher_for(name), batch_of())).backward()
    own = [p for module in method.first_stage_modules() for p in module.parameters()]
    assert all(p.grad is not None for p in own)
    stages = any(leaf.grad is not None for leaf in leaves(student))
    assert {"stages": (True, False), "own": (False, True), "stages+own": (True, True)}[method.first_stage_trains] == (
        stages, bool(own)
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ab", "fsp", "ft"])
def test_no_first_stage_where_it_has_no_epochs(name: str) -> None:
    assert built(name, config={"first_epochs": 0}).first_stage is None


def zeroed(x: Tensor) -> Tensor:
    return torch.zeros_like(x).requires_grad_(x.requires_grad)


def large_logits(out: ModelOutput) -> ModelOutput:
    return out._replace(logits_BK=(out.logits_BK.detach().sign() * 1e4).requires_grad_())


@pytest.mark.parametrize(("name", "variant"), CASES)
@pytest.mark.parametrize("kind", ["zero", "equal", "large", "one row", "one zero row", "from bf16"])
def test_finite(name: str, variant: str, kind: str) -> None:
    rows = {"one row": 1, "one zero row": 1}.get(kind, ROWS)
    method = built(name, variant, torch.float32)
    student, teacher = (
        output(shapes, seed, rows, torch.float32)
        for shapes, seed in ((STUDENT, 0), ({"fsp": STUDENT}.get(name, TEACHER), 1))
    )
    change = {
        "zero": lambda o: mapped(o, zeroed),
        "one zero row": lambda o: mapped(o, zeroed),
        "equal": lambda o: mapped(o, lambda x: torch.ones_like(x).requires_grad_()),
        "large": large_logits,
        "from bf16": lambda o: mapped(o, lambda x: x.detach().bfloat16().float().requires_grad_()),
    }.get(kind, lambda o: o)
    student, teacher = change(student), stopped(change(teacher))
    for module in getattr(method, "first_stage_modules", tuple)():
        module.requires_grad_(True)
    loss = total(losses(method, student, teacher, batch_of(range(rows))))
    found = torch.autograd.grad(
        loss, [*leaves(student), *(p for p in method.parameters() if p.requires_grad)], allow_unused=True
    )
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(g.isfinite().all() for g in found if g is not None)


@pytest.mark.parametrize("name", NAMES)
def test_variants_differ_where_they_say_so(name: str) -> None:
    kind = DISTILLERS.get(name)
    student, teacher = output(STUDENT, 0), teacher_for(name)
    found: dict[str, float] = {}  # the first one of equals
    for variant, meaning in kind.variants.items():
        loss = total(losses(built(name, variant), student, teacher, batch_of())).item()
        alike = [other for other, value in found.items() if abs(value - loss) < 1e-9]
        told = [other for other in found if f"as {other}" in meaning or f"as {other}," in meaning]
        assert alike == told, variant
        if not told:
            found[variant] = loss


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_one_graph(name: str, variant: str) -> None:
    torch._dynamo.reset()
    method = built(name, variant, torch.float32)
    student, teacher = output(STUDENT, 0, dtype=torch.float32), teacher_for(name, dtype=torch.float32)
    twin = built(name, variant, torch.float32)
    compiled = torch.compile(method, backend="aot_eager", fullgraph=True)
    for step in range(2):
        progress = torch.tensor(2.5 + step)
        found = compiled(student, teacher, batch_of(), progress)
        wanted = twin(student, teacher, batch_of(), progress)
        for term in wanted:
            assert found[term].item() == pytest.approx(wanted[term].item(), rel=1e-5), (step, term)
    for (key, value), other in zip(method.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.allclose(value.double(), other.double(), rtol=1e-5, atol=1e-6), key


def without_preact(shapes: Shapes) -> Shapes:
    return shapes._replace(preact=())


LONGER = Shapes(CLASSES, 6, (*TEACHER.features, (6, 2, 2)), (*TEACHER.preact, (6, 2, 2)))
HALF = Shapes(CLASSES, 6, ((3, 4, 4), (5, 4, 4), (6, 2, 2)), ((3, 4, 4), (5, 4, 4), (6, 2, 2)))
ODD = Shapes(CLASSES, 6, ((3, 8, 8), (5, 24, 24), (6, 4, 4)), ((3, 8, 8), (5, 24, 24), (6, 4, 4)))
BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("ab", "default", {"teacher": LONGER}, "the student has 2, the teacher 3"),
    ("ab", "default", {"teacher": ODD}, "of height 8 to height 24"),
    ("ofd", "default", {"student": without_preact(STUDENT)}, "the student has none"),
    ("ofd", "default", {"norms": ()}, "batch norm"),
    ("ofd", "paper", {"teacher": HALF}, "8 x 8"),
    ("simkd", "default", {"classifier": torch.nn.Linear(9, CLASSES)}, "6 channels and the classifier takes 9"),
    ("simkd", "default", {"config": {"factor": 8}}, "factor=8"),
    ("simkd", "default", {"classifier": None}, "teacher.source=live"),
    ("srrl", "default", {"classifier": None}, "teacher.source=live"),
    ("ft", "default", {"config": {"k": 0.1}}, "k=0.1"),
    ("crd", "default", {"label_N": torch.zeros(40, dtype=torch.int64)}, "only one class"),
]


@pytest.mark.parametrize(("name", "variant", "given", "text"), BAD)
def test_a_pair_without_a_formula_is_refused(name: str, variant: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        built(name, variant, **given)
    assert "\n" not in str(caught.value)


def test_fsp_refuses_unlike_widths() -> None:
    kind = DISTILLERS.get("fsp")
    with pytest.raises(InputError, match="equal widths"):
        kind(kind.Config(), setting_for("", STUDENT, TEACHER))


@pytest.mark.parametrize("name", NAMES)
def test_unknown_shapes_are_refused(name: str) -> None:
    kind = DISTILLERS.get(name)
    with pytest.raises(InputError, match=r"teacher\.source=live"):
        kind(kind.Config())


@pytest.mark.parametrize("teacher", [LONGER, HALF, TEACHER], ids=["longer", "half", "like"])
@pytest.mark.parametrize("name", ["ofd", "reviewkd", "semckd", "simkd", "ft", "srrl"])
def test_unlike_networks_pair(name: str, teacher: Shapes) -> None:
    for student_shapes, teacher_shapes in ((STUDENT, teacher), (teacher, STUDENT)):
        method = built(name, student=student_shapes, teacher=teacher_shapes)
        student = output(student_shapes, 0)
        loss = total(method(student, stopped(output(teacher_shapes, 1)), batch_of(), torch.tensor(0.0)))
        loss.backward()
        assert loss.isfinite() and all(p.grad is not None for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_published_values_are_arguments(name: str) -> None:
    content, kind = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), DISTILLERS.get(name)
    assert (CONFIGS.parent / "recipe" / f"{content['recipe']}.yaml").is_file()
    for part in [content, *(entry["set"] for entry in content.get("per", []))]:
        kind.Config(**part.get("method_args", {}))
    published = kind.Config(**content["method_args"])
    assert published == kind.Config() or content["method_args"]["kd_weight"] != kind.Config().kd_weight
