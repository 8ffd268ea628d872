"""Methods of logits (DKD and its kin, EnergyKD, KDrefine, LSKD, NKD, USKD, DIST) against slow loops in float64."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Shapes, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.energy import EnergyBands, energy
from pipeline.distillers.dist import inter_loss, intra_loss
from pipeline.distillers.dkd import dkd_loss, warm_up
from pipeline.distillers.kdrefine import four_times_normalised
from pipeline.distillers.lskd import standardise
from pipeline.distillers.nkd import nkd_loss
from pipeline.distillers.uskd import paper_scores, share_of_rest, zipf_targets

METHODS = ("dkd", "edkd", "energykd", "energydkd", "heda", "kdrefine", "lskd", "nkd", "uskd", "dist")
CASES = [(name, variant) for name in METHODS for variant in DISTILLERS.get(name).variants]
BATCH, CLASSES = 6, 5
SHAPES = Shapes(CLASSES, 4, ((3, 4, 4), (4, 2, 2), (4, 2, 2)))
SETTING = Setting(student=SHAPES, teacher=SHAPES, batch_size=4)


def normal(*shape: int, seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * scale


def output(logits_BK: Tensor, seed: int = 0) -> ModelOutput:
    rows = len(logits_BK)
    maps = tuple(normal(rows, *shape, seed=seed + i, dtype=logits_BK.dtype) for i, shape in enumerate(SHAPES.features))
    return ModelOutput(logits_BK, maps[-1].mean(dim=(2, 3)), maps)


def built(name: str, variant: str = "default", dtype: torch.dtype = torch.float64, **config: Any) -> Distiller:
    """The method with thresholds learned where it has any."""
    kind = DISTILLERS.get(name)
    torch.manual_seed(0)
    method = kind(kind.Config(**config), SETTING, variant).to(dtype)
    if method.teacher_pass:
        method.learn(method.digest(normal(10, CLASSES, seed=9, dtype=dtype)), torch.zeros(10, dtype=torch.int64))
    return method


def arguments(method: Distiller, student_BK: Tensor, teacher_BK: Tensor, label_B: Tensor) -> list[Any]:
    """Of `forward`: a batch, the same one again as HE-DA's further view."""
    batch = Batch(image_BCHW=student_BK, label_B=label_B, index_B=torch.arange(len(label_B)))
    student, teacher = output(student_BK), output(teacher_BK, 5)
    extra = [View(student, teacher, batch)] if method.streams else []
    return [student, teacher, batch, torch.tensor(4.5), *extra]


def losses(method: Distiller, *tensors: Tensor) -> dict[str, Tensor]:
    """Terms of the batch with these logits and labels."""
    found: dict[str, Tensor] = method(*arguments(method, *tensors))
    return found


def example(dtype: torch.dtype = torch.float64, rows: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    student = normal(rows, CLASSES, seed=1, dtype=dtype).requires_grad_()
    return student, normal(rows, CLASSES, seed=2, dtype=dtype), torch.arange(rows) % CLASSES


def softmax(values: Sequence[float], T: float = 1.0) -> list[float]:
    powers = [math.exp(v / T) for v in values]
    return [p / sum(powers) for p in powers]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_dkd(s: list[float], t: list[float], y: int, T: float) -> tuple[float, float]:
    """One row: divergence of (label, rest), and among the rest."""
    p, q = softmax(t, T)[y], softmax(s, T)[y]
    return kl([p, 1 - p], [q, 1 - q]), kl(softmax(t[:y] + t[y + 1 :], T), softmax(s[:y] + s[y + 1 :], T))


def test_dkd_is_the_obvious_sum() -> None:
    student, teacher, label = example()
    rows = [naive_dkd(s, t, y, 3) for s, t, y in zip(student.tolist(), teacher.tolist(), label.tolist(), strict=True)]
    wanted = 9 * sum(0.7 * a + 2.5 * b for a, b in rows) / BATCH
    assert dkd_loss(student, teacher, label, 0.7, 2.5, 3.0).item() == pytest.approx(wanted, rel=1e-12)


def test_warm_up_counts_epochs_from_one() -> None:
    one = torch.zeros((), dtype=torch.float64)
    found = [warm_up(torch.tensor(p), 20, one).item() for p in (0.0, 0.99, 1.0, 18.9, 19.0, 200.5)]
    assert found == [0.05, 0.05, 0.1, 0.95, 1.0, 1.0]


def test_edkd_of_the_paper_weights_each_sample_by_its_target_s_probability() -> None:
    student, teacher, label = example()
    wanted = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), label.tolist(), strict=True):
        target, rest = naive_dkd(s, t, y, 4)
        wanted += 16 * (target + 8 * math.exp(-(1 - softmax(t, 4)[y])) * rest) / BATCH
    terms = losses(built("edkd", "paper", warmup=1), student, teacher, label)
    assert terms["kd"].item() == pytest.approx(wanted, rel=1e-12)


def test_energy_bands_leave_the_asked_share_outside() -> None:
    logits = normal(23, CLASSES, seed=3)
    bands = EnergyBands(4.0, 0.2, 0.3, batch_size=5).double()
    bands.learn(bands.digest(logits))
    by_hand = sorted(-4 * math.log(sum(math.exp(v / 4) for v in row)) for row in logits[:20].tolist())
    assert (bands.low.item(), bands.high.item()) == pytest.approx((by_hand[4], by_hand[13]), rel=1e-14)
    below, above = bands.outside(logits[:20])
    assert (int(below.sum()), int(above.sum())) == (4, 6)
    assert energy(torch.full((1, 3), 1e6), 4.0).isfinite()


@pytest.mark.parametrize(("variant", "by_band"), [("energykd", (2, 4, 6)), ("paper", (6, 4, 2))])
def test_energykd_picks_the_temperature_by_band(variant: str, by_band: tuple[int, int, int]) -> None:
    student, teacher, label = example()
    method = built("energykd", variant)
    bands = method.get_submodule("temperature.bands")
    bands.low, bands.high = energy(teacher, 4.0).sort().values[[2, 3]]
    wanted, ranked = 0.0, energy(teacher, 4.0).argsort().argsort().tolist()
    for s, t, rank in zip(student.tolist(), teacher.tolist(), ranked, strict=True):
        T = by_band[0] if rank < 2 else by_band[2] if rank > 3 else by_band[1]
        wanted += 0.9 * T * T * kl(softmax(t, T), softmax(s, T)) / BATCH
    assert losses(method, student, teacher, label)["kd"].item() == pytest.approx(wanted, rel=1e-12)


def test_the_paper_learns_from_all_rows() -> None:
    logits, label = normal(10, CLASSES, seed=9), torch.zeros(10, dtype=torch.int64)
    for variant, rows in (("energykd", 8), ("paper", 10)):
        method = built("energykd", variant, low_rate=0.0)
        method.learn(method.digest(logits), label)
        assert method.get_buffer("temperature.bands.low") == energy(logits[:rows], 4.0).min()


@pytest.mark.parametrize("name", ["energykd", "energydkd", "heda"])
def test_thresholds_that_were_not_learned_do_not_pass(name: str) -> None:
    kind = DISTILLERS.get(name)
    assert kind.teacher_pass
    terms = losses(kind(kind.Config(), None).double(), *example())
    assert any(term.isnan() for term in terms.values())


@pytest.mark.parametrize("unbiased", [True, False])
def test_standardise_is_the_z_score(unbiased: bool) -> None:
    z = normal(3, CLASSES)
    for row, found in zip(z.tolist(), standardise(z, unbiased=unbiased, eps=0.0).tolist(), strict=True):
        mean = sum(row) / CLASSES
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / (CLASSES - unbiased))
        assert found == pytest.approx([(v - mean) / deviation for v in row], rel=1e-12)


def test_kdrefine_of_2022_is_a_layer_norm() -> None:
    z = normal(3, CLASSES)
    assert torch.allclose(four_times_normalised(z), 4 * F.layer_norm(z, (CLASSES,), eps=1e-7), rtol=1e-12, atol=0)


def test_kdrefine_ignores_shift_and_scale_of_the_logits() -> None:
    student, teacher, label = example()
    method = built("kdrefine")
    found, moved = losses(method, student, teacher, label), losses(method, 3 * student + 7, teacher - 5, label)
    assert all(torch.allclose(found[k], moved[k], rtol=1e-6) for k in ("ce", "kd"))


def test_nkd_is_the_obvious_sum() -> None:
    student, teacher, label = example()
    wanted = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), label.tolist(), strict=True):
        p, q = softmax(t[:y] + t[y + 1 :], 3), softmax(s[:y] + s[y + 1 :], 3)
        rest = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        wanted += (-softmax(t)[y] * math.log(softmax(s)[y]) + 3.5 * 9 * rest) / BATCH
    assert nkd_loss(student, teacher, label, 3.5, 3.0).item() == pytest.approx(wanted, rel=1e-12)


def test_uskd_of_the_paper_ranks_the_other_classes_by_both_heads() -> None:
    weak, student, label = normal(4, CLASSES, seed=1), normal(4, CLASSES, seed=2), torch.tensor([0, 1, 2, 3])
    others = F.one_hot(label, CLASSES) == 0
    found = zipf_targets(paper_scores(weak, student, label), others)
    for w, s, y, row in zip(weak.tolist(), student.tolist(), label.tolist(), found.tolist(), strict=True):
        p, q = softmax(w), softmax(s)
        score = {k: p[k] / (1 - p[y] + 1e-6) + q[k] / (1 - q[y] + 1e-6) for k in range(CLASSES) if k != y}
        ranked = sorted(score, key=score.__getitem__, reverse=True)
        total = sum(1 / (i + 1) for i in range(CLASSES - 1))
        assert row == pytest.approx([0 if k == y else 1 / (ranked.index(k) + 1) / total for k in range(CLASSES)])
    assert share_of_rest(F.softmax(weak, dim=1), label).isfinite().all()


def test_uskd_wants_two_stages() -> None:
    kind = DISTILLERS.get("uskd")
    for setting in (None, Setting(student=Shapes(CLASSES, 4, ((3, 4, 4),)))):
        with pytest.raises(InputError, match="stage maps"):
            kind(kind.Config(), setting)


def test_dist_is_the_correlation_of_rows_and_columns() -> None:
    p, q = F.softmax(normal(BATCH, CLASSES), 1), F.softmax(normal(BATCH, CLASSES, seed=1), 1)
    rows = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p, q, strict=True)]
    columns = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p.T, q.T, strict=True)]
    assert torch.allclose(inter_loss(p, q), 1 - torch.stack(rows).mean(), rtol=1e-6)
    assert torch.allclose(intra_loss(p, q), 1 - torch.stack(columns).mean(), rtol=1e-6)
    assert inter_loss(torch.full((2, 7), 1 / 7), q[:2, :1].expand(2, 7)) == 1


def by_ranks(method: Distiller, run: Callable[[int, int], Any], spans: list[tuple[int, int]]) -> list[Any]:
    """run(start, stop) of every rank, `gather` giving what all ranks gave to their calls of the same number."""
    tapes: list[list[Tensor]] = [[] for _ in spans]

    def record(tape: list[Tensor], x: Tensor) -> Tensor:
        tape.append(x)
        return x

    def player() -> Callable[[Tensor], Tensor]:
        columns = iter([torch.cat(found) for found in zip(*tapes, strict=True)])
        return lambda x: next(columns)

    for tape, span in zip(tapes, spans, strict=True):
        method.gather_rows = partial(record, tape)
        run(*span)
    results = []
    for span in spans:
        method.gather_rows = player()
        results.append(run(*span))
    return results


@pytest.mark.parametrize(("name", "variant"), [c for c in CASES if c[0] != "heda"])
def test_ranks_of_uneven_size_give_the_loss_of_one(name: str, variant: str) -> None:
    student, teacher, label = example()
    method = built(name, variant)
    maps = output(student).features

    def run(start: int, stop: int) -> Tensor:
        part = ModelOutput(student[start:stop], student[start:stop], tuple(f[start:stop] for f in maps))
        batch = Batch(image_BCHW=student, label_B=label[start:stop], index_B=torch.arange(start, stop))
        terms = method(part, output(teacher[start:stop]), batch, torch.tensor(30.0))
        return torch.stack(list(terms.values())).sum() * (stop - start) / BATCH

    whole = run(0, BATCH)
    ranks = torch.stack(by_ranks(method, run, [(0, 4), (4, BATCH)])).sum()
    assert torch.allclose(ranks, whole, rtol=1e-12)
    found, wanted = (torch.autograd.grad(x, student)[0] for x in (ranks, whole))
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-14)


HARD = {
    "huge": lambda s, t: (s * 1e4, t * 1e4),
    "opposite": lambda s, t: (s * 1e4, s.detach() * -1e4),
    "zeros": lambda s, t: (s * 0, t),
    "both zeros": lambda s, t: (s * 0, t * 0),
    "equal": lambda s, t: (s * 1, s.detach()),
    "alone": lambda s, t: (s[:1], t[:1]),
    "bf16": lambda s, t: (s.bfloat16().float(), t.bfloat16().float()),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_no_input_breaks_a_loss(name: str, variant: str, kind: str) -> None:
    leaf, teacher, label = example(torch.float32)
    student, teacher = HARD[kind](leaf, teacher)
    method = built(name, variant, torch.float32)
    terms = losses(method, student, teacher, label[: len(student)])
    assert all(t.isfinite() and t.dim() == 0 and t.dtype == torch.float32 for t in terms.values()), terms
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaf)
    assert gradient.isfinite().all()
    if kind == "equal":
        assert abs(terms.get("kd", torch.zeros(()))) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_variants_are_finite_and_own_parameters_learn(name: str) -> None:
    found = {}
    for variant in DISTILLERS.get(name).variants:
        method = built(name, variant)
        loss = torch.stack(list(losses(method, *example()).values())).sum()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
        found[variant] = loss.item()
    # DKD's is the same by definition; HE-DA's choose and mix images, which this test gives.
    same = {"mdistiller"} | (set(found) - {"paper"} if method.streams else set())
    assert len(set(found.values())) == len(set(found) - same), found
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_forward_is_one_graph(name: str, variant: str) -> None:
    method = built(name, variant)
    given = arguments(method, *example())
    plain, found = method(*given), torch.compile(method, fullgraph=True, backend="aot_eager")(*given)
    assert all(torch.allclose(found[k], plain[k], rtol=1e-12) for k in plain)


def test_logits_methods_need_no_setting() -> None:
    for name in set(METHODS) - {"uskd"}:
        kind = DISTILLERS.get(name)
        assert kind(kind.Config()).added_parameters() == 0
