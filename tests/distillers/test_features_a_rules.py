"""What every method of this group owes: finite numbers, the global batch's loss on each rank, one graph, YAML."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pipeline.config.layers import CONFIGS
from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Shapes
from pipeline.distillers import DISTILLERS

NAMES = ("at", "cc", "fitnet", "hkd", "irg", "kdsvd", "nst", "pkt", "rkd", "sp", "vid")
EVERY = [(name, variant) for name in NAMES for variant in DISTILLERS.get(name).variants]
MAPS = ((4, 8, 8), (6, 8, 8), (8, 4, 4), (10, 4, 4))
SETTING = Setting(student=Shapes(5, 10, MAPS), teacher=Shapes(5, 10, MAPS), epochs=10)
Sides = tuple[ModelOutput, ModelOutput]


def side(rows: int, seed: int, dtype: torch.dtype = torch.float32) -> ModelOutput:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=g, dtype=torch.float64).to(dtype)

    return ModelOutput(normal(5), normal(10).relu(), tuple(normal(*shape).relu() for shape in MAPS))


def mapped(output: ModelOutput, change: Callable[[Tensor], Tensor]) -> ModelOutput:
    return ModelOutput(change(output.logits_BK), change(output.pooled_BD), tuple(change(f) for f in output.features))


def build(name: str, variant: str = "default", **config: Any) -> Distiller:
    torch.manual_seed(0)
    kind = DISTILLERS.get(name)
    return kind(kind.Config(**config), SETTING, variant)


def terms(method: Distiller, student: ModelOutput, teacher: ModelOutput, progress: float = 1.5) -> dict[str, Tensor]:
    label_B = torch.arange(len(student.logits_BK)) % 5
    batch = Batch(image_BCHW=student.logits_BK, label_B=label_B, index_B=label_B)
    return method(student, teacher, batch, torch.tensor(progress))


def backward(method: Distiller, student: ModelOutput, teacher: ModelOutput) -> list[Tensor | None]:
    """Gradients of the sum of the terms (asserted finite) by what the student gave and the method owns."""
    student = mapped(student, lambda x: x.detach().clone().requires_grad_())
    total = torch.stack([term.reshape(()) for term in terms(method, student, teacher).values()]).sum()
    assert total.isfinite()
    own = [p for p in method.parameters() if p.requires_grad]
    leaves = [student.logits_BK, student.pooled_BD, *student.features, *own]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    assert all(g.isfinite().all() for g in found if g is not None)
    assert all(g is not None for g in found[len(leaves) - len(own) :]), "a parameter without gradient"
    return list(found)


def no_first_row(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[1:]])


HARD: dict[str, Callable[[], Sides]] = {
    "zero row": lambda: (mapped(side(4, 1), no_first_row), side(4, 2)),
    "zero row of the teacher": lambda: (side(4, 1), mapped(side(4, 2), no_first_row)),
    "all zero": lambda: (mapped(side(4, 1), torch.zeros_like), mapped(side(4, 2), torch.zeros_like)),
    "equal networks": lambda: (side(4, 1), side(4, 1)),
    "equal rows": lambda: (mapped(side(4, 1), lambda x: x[:1].expand_as(x)), side(4, 2)),
    "one row": lambda: (side(1, 1), side(1, 2)),
    "two rows": lambda: (side(2, 1), side(2, 2)),
    "large": lambda: (mapped(side(4, 1), lambda x: 1e4 * x), mapped(side(4, 2), lambda x: 1e4 * x)),
    "tiny": lambda: (mapped(side(4, 1), lambda x: 1e-20 * x), side(4, 2)),
    "made in bfloat16": lambda: (side(4, 1, torch.bfloat16).float(), side(4, 2, torch.bfloat16).float()),
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_finite_in_loss_and_gradient(name: str, variant: str, hard: str) -> None:
    backward(build(name, variant, kd_weight=1.0), *HARD[hard]())


@pytest.mark.parametrize("name", ["at", "cc", "nst", "pkt", "rkd", "sp"])
def test_a_sample_of_zeros_gets_no_gradient(name: str) -> None:
    """Of the method's own term; FitNet and VID have biases or a log-variance to learn from it."""
    variant = "paper" if name == "cc" else "default"
    student, teacher = HARD["zero row"]()
    found = backward(build(name, variant, ce_weight=0.0), student, teacher)
    own = [g for g in found[1:6] if g is not None]
    assert own
    for g in own:
        assert g[0].abs().max() <= 1e3 * g[1:].abs().max()


def test_variants_differ_where_they_say_so() -> None:
    student, teacher = side(4, 1), side(4, 2)
    for name, same in {
        "at": {"paper": False, "aligned": True, "repdistiller": True, "mdistiller": True, "simkd": True},
        "nst": {"paper": False, "aligned": True, "repdistiller": True},
        "vid": {"paper": True, "mdistiller": True, "aligned": True},
        "fitnet": {"mdistiller": True, "simkd": True},
        "rkd": {"mdistiller": True, "paper": False},
        "pkt": {"mdistiller": True, "paper": False},
        "kdsvd": {"paper": True, "aligned": True, "mdistiller": False},
        "cc": {"paper": False},
        "irg": {"paper": False},
        "hkd": {"paper": False, "aligned": False},
    }.items():
        default = terms(build(name), student, teacher)[name].item()
        for variant, equal in same.items():
            found = terms(build(name, variant), student, teacher)[name].item()
            assert (found == pytest.approx(default, rel=1e-6)) == equal, (name, variant)


def test_kd_is_added_at_its_weight() -> None:
    student, teacher = side(4, 1), side(4, 2)
    plain, more = terms(build("sp"), student, teacher), terms(build("sp", kd_weight=0.5, T=2.0), student, teacher)
    assert set(plain) == {"ce", "sp"} and set(more) == {"ce", "sp", "kd"}
    kd = DISTILLERS.get("kd")
    wanted = terms(kd(kd.Config(T=2.0, kd_weight=0.5)), student, teacher)["kd"]
    assert torch.equal(more["kd"], wanted)


class Recorder:
    """Stands for the gathering of two ranks: first sees the rows of the whole batch, then completes a part's."""

    def __init__(self) -> None:
        self.whole: list[Tensor] = []
        self.part: slice | None = None
        self.calls = 0

    def __call__(self, x_B: Tensor) -> Tensor:
        if self.part is None:
            self.whole.append(x_B.detach())
            return x_B
        whole_B = self.whole[self.calls].clone()
        self.calls += 1
        assert torch.allclose(whole_B[self.part], x_B, rtol=1e-12, atol=1e-15)
        return torch.cat([whole_B[: self.part.start], x_B, whole_B[self.part.stop :]])


@pytest.mark.parametrize(
    ("name", "variant"), [(n, v) for n, v in EVERY if n in {"cc", "hkd", "irg", "pkt", "rkd", "sp"}]
)
def test_each_rank_has_the_loss_of_the_global_batch(name: str, variant: str) -> None:
    method, recorder = build(name, variant).double(), Recorder()
    method.gather_rows = recorder
    student, teacher = side(5, 1, torch.float64), side(5, 2, torch.float64)
    whole = terms(method, student, teacher)[name]
    assert recorder.whole, "nothing is gathered"
    for part in (slice(0, 3), slice(3, 5)):
        recorder.part, recorder.calls = part, 0
        own = tuple(mapped(o, lambda x, part=part: x[part]) for o in (student, teacher))
        assert torch.allclose(terms(method, *own)[name], whole, rtol=1e-12)


@pytest.mark.parametrize("name", ["at", "fitnet", "kdsvd", "nst", "vid"])
def test_methods_on_single_samples_are_means_over_them(name: str) -> None:
    """In eval mode, where FitNet's batch norm relates no samples."""
    method = build(name).double().eval()
    student, teacher = side(4, 1, torch.float64), side(4, 2, torch.float64)
    halves = [
        terms(method, *(mapped(o, lambda x, part=part: x[part]) for o in (student, teacher)))[name]
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert torch.allclose(sum(halves) / 2, terms(method, student, teacher)[name], rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "variant"), [(name, "default") for name in NAMES] + [("fitnet", "paper"), ("irg", "paper")]
)
def test_one_graph(name: str, variant: str) -> None:
    method = build(name, variant, kd_weight=1.0)
    student, teacher = mapped(side(4, 1), lambda x: x.requires_grad_()), side(4, 2)
    label_B = torch.arange(4)

    def total(student: ModelOutput, teacher: ModelOutput, progress: Tensor) -> Tensor:
        batch = Batch(image_BCHW=student.logits_BK, label_B=label_B, index_B=label_B)
        return torch.stack(list(method(student, teacher, batch, progress).values())).sum()

    wanted = total(student, teacher, torch.tensor(1.5))
    torch._dynamo.reset()
    found = torch.compile(total, backend="aot_eager", fullgraph=True)(student, teacher, torch.tensor(1.5))
    assert torch.allclose(found, wanted, rtol=1e-5)
    found.backward()
    assert student.logits_BK.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_yaml_holds_the_published_values(name: str) -> None:
    layer = yaml.safe_load((CONFIGS / "method" / f"{name}.yaml").read_text())
    kind = DISTILLERS.get(name)
    assert (CONFIGS / "recipe" / f"{layer['recipe']}.yaml").is_file()
    pairs = yaml.safe_load((CONFIGS / "pairs.yaml").read_text())["pairs"]
    for changes in [{"method_args": layer["method_args"]}, *(entry["set"] for entry in layer.get("per", ()))]:
        assert changes.get("variant", next(iter(kind.variants))) in kind.variants
        kind.Config(**changes.get("method_args", {}))
    for entry in layer.get("per", ()):
        assert set(entry["when"].get("pair", [])) <= set(pairs)
    semckd = {"kd_weight": 1.0} if layer["recipe"] == "simkd" else {}
    assert kind.Config(**layer["method_args"]) == kind.Config(**semckd)
