"""R2KD, MLKD, CTKD, TTM, WTTM, FunMatch and CAT-KD: what golden cases do not cover."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import Batch, BatchInfo, Distiller, InputError, ModelOutput, Setting, Shapes, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.catkd import CATKD, cat_loss
from pipeline.distillers.ctkd import CTKD
from pipeline.distillers.funmatch import FunMatch
from pipeline.distillers.mlkd import MLKD
from pipeline.distillers.r2kd import R2KD
from pipeline.distillers.ttm import TTM
from pipeline.distillers.wttm import WTTM

CLASSES, SIDE = 7, 4
FORMS: list[tuple[type[Distiller], dict[str, Any], str]] = [
    (R2KD, {}, "default"),
    (R2KD, {"augment": "cutmixpick", "pick": 3}, "default"),
    (R2KD, {"augment": "none"}, "default"),
    (R2KD, {}, "paper"),
    (R2KD, {"augment": "cutmixpick", "pick": 3}, "paper"),
    (MLKD, {}, "original"),
    (MLKD, {}, "paper"),
    (MLKD, {"standardise": True, "T": 2.0, "kd_weight": 9.0}, "original"),
    (CTKD, {}, "original"),
    (CTKD, {}, "paper"),
    (CTKD, {"standardise": True, "t_start": 2.0, "t_range": 40.0, "kd_weight": 9.0}, "original"),
    (CTKD, {"kd_weight": 0.0, "dkd_alpha": 1.0, "dkd_beta": 2.0}, "original"),
    (TTM, {}, "default"),
    (WTTM, {}, "default"),
    (FunMatch, {}, "default"),
    (CATKD, {}, "original"),
    (CATKD, {"normalise": True}, "paper"),
    (CATKD, {"classes": "top", "class_count": 3, "binarise": True}, "original"),
    (CATKD, {"classes": "lowest", "class_count": 3, "ce_weight": 0.0}, "paper"),
]
form = pytest.mark.parametrize(("kind", "options", "variant"), FORMS)
Leaves = dict[str, Tensor]


def made(kind: type[Distiller], options: dict[str, Any], variant: str = "default") -> Distiller:
    torch.manual_seed(0)
    return kind(kind.Config(**options), None, variant)


def in_float64(kind: type[Distiller], options: dict[str, Any], variant: str) -> Distiller:
    return made(kind, options, variant).double()


def leaves_of(rows: int, scale: float = 2.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Leaves:
    """Logits of both networks for two views, and class maps, labels among them."""
    generator = torch.Generator().manual_seed(seed)
    names = ("student", "teacher", "student_other", "teacher_other")
    found = {name: torch.randn(rows, CLASSES, generator=generator, dtype=dtype) * scale for name in names}
    for name in ("student_cam", "teacher_cam"):
        found[name] = torch.randn(rows, CLASSES, SIDE, SIDE, generator=generator, dtype=dtype) * scale
    for name in found:
        found[name].requires_grad_(name.startswith("student"))
    return found | {"label": torch.arange(rows) % CLASSES}


def terms_of(method: Distiller, leaves: Leaves, progress: float = 3.5) -> dict[str, Tensor]:
    batch = Batch(image_BCHW=leaves["label"], label_B=leaves["label"], index_B=leaves["label"])
    student = ModelOutput(leaves["student"], leaves["student"], (leaves["student_cam"],))
    teacher = ModelOutput(leaves["teacher"], leaves["teacher"], (leaves["teacher_cam"],))
    other, other_teacher = leaves["student_other"], leaves["teacher_other"]
    view = View(ModelOutput(other, other), ModelOutput(other_teacher, other_teacher), batch)
    extra = [view] if method.streams else []
    return method(student, teacher, batch, leaves["student"].new_tensor(progress), *extra)


def total_of(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def gradients_of(loss: Tensor, leaves: Leaves) -> dict[str, Tensor]:
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(wanted, found, strict=True) if g is not None}


def softmax(z: Tensor, T: float = 1.0) -> list[list[float]]:
    return [[e / sum(es) for e in es] for es in ([math.exp(x / T) for x in row] for row in z.tolist())]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def kl_of(teacher_BK: Tensor, student_BK: Tensor) -> Tensor:
    p_BK = teacher_BK.softmax(dim=1)
    return (p_BK * (p_BK.log() - student_BK.softmax(dim=1).log())).sum(dim=1).mean()


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_ttm_and_wttm_are_the_loops(gamma: float) -> None:
    leaves = leaves_of(5)
    plain, weighted = 0.0, 0.0
    for p, q in zip(softmax(leaves["teacher"]), softmax(leaves["student"]), strict=True):
        powers = [x**gamma for x in p]
        distance = kl([x / sum(powers) for x in powers], q)
        plain, weighted = plain + distance / 5, weighted + sum(powers) * distance / 5
    assert terms_of(made(TTM, {"gamma": gamma}), leaves)["kd"].item() == pytest.approx(45 * plain, rel=1e-12)
    assert terms_of(made(WTTM, {"gamma": gamma}), leaves)["kd"].item() == pytest.approx(4 * weighted, rel=1e-12)


def test_funmatch_trains_on_the_mixed_view_alone() -> None:
    leaves, method = leaves_of(5), made(FunMatch, {"T": 3.0})
    pairs = zip(softmax(leaves["teacher"], 3.0), softmax(leaves["student"], 3.0), strict=True)
    terms = terms_of(method, leaves)
    assert list(terms) == ["kd"]
    assert terms["kd"].item() == pytest.approx(9 * sum(kl(p, q) for p, q in pairs) / 5, rel=1e-12)
    image, label = torch.zeros(2, 3, 4, 4), torch.arange(2)
    at = BatchInfo(view=3, share=0.5)
    given = Batch(image_BCHW=image, label_B=label, index_B=label + 5, info=at, streams={"mixed": image + 1})
    seen = method.main_batch(given)
    assert seen.image_BCHW.mean() == 1 and torch.equal(seen.label_B, label) and torch.equal(seen.index_B, label + 5)
    assert (seen.info.view, seen.info.share) == (3, 0.5)
    assert seen.streams.keys() == {"mixed"}  # for the parts of a combination
    assert method.extra_batches(given, None) == ()


def gram_gap(p: list[list[float]], q: list[list[float]]) -> float:
    """||P P^T - Q Q^T||_F^2 by four loops."""
    total = 0.0
    for i, j in itertools.product(range(len(p)), repeat=2):
        dots = [sum(a * b for a, b in zip(m[i], m[j], strict=True)) for m in (p, q)]
        total += (dots[0] - dots[1]) ** 2
    return total


def test_mlkd_of_the_paper_is_the_loops() -> None:
    leaves, rows = leaves_of(5), 5
    terms = terms_of(made(MLKD, {}, "paper"), leaves)
    by_class = by_batch = distance = 0.0
    for T in (4.0, 2.0, 3.0, 5.0, 6.0):
        p, q = softmax(leaves["teacher"], T), softmax(leaves["student"], T)
        by_batch += gram_gap(p, q) / rows
        by_class += gram_gap([*map(list, zip(*p, strict=True))], [*map(list, zip(*q, strict=True))]) / CLASSES
        strong = zip(softmax(leaves["teacher_other"], T), softmax(leaves["student_other"], T), strict=True)
        distance += T * T * sum(kl(a, b) for a, b in [*zip(p, q, strict=True), *strong]) / rows
    wanted = {"kd": distance, "class": by_class, "batch": by_batch}
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(0.9 * value, rel=1e-11)


def test_mlkd_of_the_code_differs() -> None:
    leaves = leaves_of(5)
    code, paper = (terms_of(made(MLKD, {}, variant), leaves) for variant in ("original", "paper"))
    assert code["ce"] == paper["ce"] and code["kd"] < 0.9 * paper["kd"]
    assert code["batch"].item() == pytest.approx(0.6 * paper["batch"].item())  # 3 of 5 samples, 4 of 7 classes
    assert code["class"].item() == pytest.approx(4 / 7 * paper["class"].item())


def test_cat_loss_is_the_loop() -> None:
    leaves = leaves_of(3)
    student, teacher = leaves["student_cam"], F.avg_pool2d(leaves["teacher_cam"], 2)  # maps of different size
    total = 0.0
    for i, k in itertools.product(range(3), range(CLASSES)):
        pooled = [student[i, k].reshape(2, 2, 2, 2).mean(dim=(1, 3)), teacher[i, k]]
        one, two = (x / x.norm() for x in pooled)
        total += ((one - two) ** 2).sum().item()
    assert cat_loss(student, teacher, 2, normalise=True).item() == pytest.approx(total / (3 * CLASSES * 4), rel=1e-12)


@pytest.mark.parametrize(("classes", "variant", "count"), [
    ("top", "paper", 3), ("lowest", "paper", 3), ("top", "original", 2), ("lowest", "original", 4),
])  # fmt: skip
def test_catkd_transfers_some_classes(classes: str, variant: str, count: int) -> None:
    leaves = leaves_of(4)
    terms = terms_of(made(CATKD, {"classes": classes, "class_count": 3}, variant), leaves)
    reached = gradients_of(terms["cat"], leaves)["student_cam"].abs().sum(dim=(2, 3)) > 0
    order = leaves["teacher"].argsort(dim=1, descending=classes == "top")[:, :count]
    assert torch.equal(reached, torch.zeros_like(reached).scatter(1, order, True))


def test_catkd_refuses_what_it_cannot_match() -> None:
    good = Shapes(CLASSES, 64, ((16, 8, 8), (CLASSES, 8, 8)))
    bad = good._replace(features=((16, 8, 8), (64, 8, 8)))
    CATKD(CATKD.Config(), Setting(student=good, teacher=good))
    with pytest.raises(InputError, match="teacher is not in class-activation form: 64 channels"):
        CATKD(CATKD.Config(), Setting(student=good, teacher=bad))
    with pytest.raises(InputError, match="side=9"):
        CATKD(CATKD.Config(side=9), Setting(student=good, teacher=good))
    with pytest.raises(InputError, match="class_count"):
        CATKD(CATKD.Config(classes="lowest", class_count=7), Setting(student=good, teacher=good))


def test_streams_come_back_as_batches() -> None:
    image, label = torch.zeros(2, 3, 4, 4), torch.arange(2)
    kinds = [("r2kd", {"augment": a}) for a in ("cutmix", "mixup", "cutout", "autoaug", "cutmixpick", "none")]
    seen = {}
    for name, options in [*kinds, ("mlkd", {}), ("mlld", {}), ("kd_ours", {}), ("funmatch", {})]:
        method = made(DISTILLERS.get(name), options)
        streams = {stream: torch.full_like(image, 1.0) for stream in method.streams}
        at = BatchInfo(view=3, share=0.5)
        batch = Batch(image_BCHW=image, label_B=label, index_B=label + 5, info=at, streams=streams)
        others = method.extra_batches(batch, None) or [method.main_batch(batch)] * len(streams)
        assert len(others) == len(streams)
        for other in others:
            assert other.image_BCHW.mean() == 1 and other.index_B is batch.index_B
            assert (other.info.view, other.info.share) == (3, 0.5) and (not other.streams or name == "funmatch")
        seen[options.get("augment", name)] = [(s.kind, s.alpha, s.size) for s in method.streams.values()]
    assert seen["mixup"] == [("mixup", 0.2, 0)] and seen["cutmix"] == seen["cutmixpick"] == [("cutmix", 1.0, 0)]
    assert seen["cutout"] == [("cutout", 1.0, 8)] and seen["autoaug"][0][0] == "autoaugment" and not seen["none"]
    assert seen["mlkd"] == seen["mlld"] == [("strong", 1.0, 0)] and seen["funmatch"] == [("mixup", 1.0, 0)]


@form
def test_two_ranks_are_one(kind: type[Distiller], options: dict[str, Any], variant: str) -> None:
    """Ranks of 3 and 5 rows: the mean of shares times losses, and its gradient, are those of the whole batch."""
    leaves = leaves_of(8)
    wanted = total_of(terms_of(in_float64(kind, options, variant), leaves))
    parts = [{name: leaf[a:b] for name, leaf in leaves.items()} for a, b in ((0, 3), (3, 8))]
    sent: list[list[Tensor]] = [[], []]
    for part, log in zip(parts, sent, strict=True):
        method = in_float64(kind, options, variant)
        method.gather_rows = lambda x, log=log: log.append(x) or x  # type: ignore[func-returns-value]
        terms_of(method, part)
    assert len(sent[0]) == len(sent[1])
    total: Any = 0
    for part in parts:
        method, received = in_float64(kind, options, variant), iter(zip(*sent, strict=True))
        method.gather_rows = lambda x, received=received: torch.cat(next(received))
        total = total + len(part["label"]) / 8 * total_of(terms_of(method, part))
    assert total.item() == pytest.approx(wanted.item(), rel=1e-7 if kind is R2KD else 1e-12)  # ranks are float32
    expected = gradients_of(wanted, leaves)
    for name, found in gradients_of(total, leaves).items():
        assert torch.allclose(found, expected[name], rtol=1e-9, atol=1e-12), name


EDGES: dict[str, Callable[[], Leaves]] = {
    "confident": lambda: leaves_of(6, scale=1e4, dtype=torch.float32),
    "zero": lambda: {k: v.detach().mul(0).requires_grad_(v.requires_grad) if v.is_floating_point() else v
                     for k, v in leaves_of(6, dtype=torch.float32).items()},
    "equal": lambda: (found := leaves_of(6, dtype=torch.float32)) | {
        "teacher": found["student"].detach(), "teacher_other": found["student_other"].detach(),
        "teacher_cam": found["student_cam"].detach()},
    "single": lambda: leaves_of(1, dtype=torch.float32),
    "bf16": lambda: {k: v.detach().bfloat16().float().requires_grad_(v.requires_grad) if v.is_floating_point() else v
                     for k, v in leaves_of(6, dtype=torch.float32).items()},
}  # fmt: skip


@form
@pytest.mark.parametrize("edge", EDGES)
def test_finite_at_the_edges(kind: type[Distiller], options: dict[str, Any], variant: str, edge: str) -> None:
    leaves, method = EDGES[edge](), made(kind, options, variant)
    terms = terms_of(method, leaves)
    total = total_of(terms)
    assert all(term.ndim == 0 and term.dtype == torch.float32 for term in terms.values()) and total.isfinite()
    for name, gradient in gradients_of(total, leaves).items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() < 1e6, name
    for parameter in method.parameters():
        (gradient,) = torch.autograd.grad(total, parameter, retain_graph=True)
        assert gradient.isfinite().all()


@form
def test_one_graph(kind: type[Distiller], options: dict[str, Any], variant: str) -> None:
    method, leaves = made(kind, options, variant), leaves_of(6, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda given: total_of(terms_of(method, given)), fullgraph=True, backend="aot_eager")
    found, wanted = compiled(leaves), total_of(terms_of(method, leaves))
    assert torch.allclose(found, wanted, rtol=1e-6)
    expected = gradients_of(wanted, leaves)
    for name, gradient in gradients_of(found, leaves).items():
        assert torch.allclose(gradient, expected[name], rtol=1e-4, atol=1e-6), name
