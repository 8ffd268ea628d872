"""Formulas of FitNet, AT, CC, VID, RKD, PKT, NST and KDSVD against slow loops, where no golden number is."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Shapes
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.singular import right_vectors
from pipeline.distillers.common.stages import stage_pairs
from pipeline.distillers.kdsvd import pixels_by_channels
from pipeline.distillers.nst import mean_kernel
from pipeline.distillers.vid import start_of

MAPS = ((4, 8, 8), (6, 8, 8), (8, 4, 4), (10, 4, 4))
FOUR_STAGES = ((4, 8, 8), (6, 8, 8), (8, 4, 4), (10, 4, 4), (12, 2, 2))
SETTING = Setting(student=Shapes(5, 10, MAPS), teacher=Shapes(5, 12, MAPS), epochs=10)
Sides = tuple[ModelOutput, ModelOutput]


def output(shapes: Shapes, rows: int, seed: int) -> ModelOutput:
    """Random float64 outputs; maps and pooled vectors as after a ReLU."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=g, dtype=torch.float64)

    return ModelOutput(normal(shapes.classes), normal(shapes.pooled).relu(), tuple(normal(*s).relu() for s in MAPS))


def sides(rows: int = 5) -> Sides:
    assert SETTING.teacher is not None
    return output(SETTING.student, rows, 1), output(SETTING.teacher, rows, 2)


def build(name: str, variant: str = "default", setting: Setting = SETTING, **config: Any) -> Distiller:
    kind = DISTILLERS.get(name)
    return kind(kind.Config(**config), setting, variant).double()


def term(method: Distiller, name: str, pair: Sides, progress: float = 0.0) -> float:
    label_B = torch.arange(len(pair[0].logits_BK)) % 5
    batch = Batch(image_BCHW=pair[0].logits_BK, label_B=label_B, index_B=label_B)
    return method(*pair, batch, torch.tensor(progress))[name].item()


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def huber(a: float, b: float) -> float:
    gap = abs(a - b)
    return gap * gap / 2 if gap < 1 else gap - 0.5


def test_at_paper_is_half_the_norm() -> None:
    student, teacher = sides()
    wanted = 0.0
    for s_BCHW, t_BCHW in zip(student.features[1:], teacher.features[1:], strict=True):
        for s, t in zip(s_BCHW, t_BCHW, strict=True):
            a, b = ((x**2).sum(0).flatten() for x in (s, t))
            wanted += float((a / a.norm() - b / b.norm()).norm()) / 2 / len(s_BCHW)
    assert term(build("at", "paper", feat_weight=1.0), "at", sides()) == pytest.approx(wanted, rel=1e-12)


def relative(x: Tensor) -> dict[tuple[int, int], float]:
    pairs = list(itertools.permutations(range(len(x)), 2))
    mean = sum(float((x[i] - x[j]).norm()) for i, j in pairs) / len(pairs)
    return {(i, j): float((x[i] - x[j]).norm()) / mean for i, j in pairs}


def test_rkd_paper_counts_different_samples_only() -> None:
    student, teacher = sides()
    s, t = student.pooled_BD, teacher.pooled_BD
    ours, theirs = relative(s), relative(t)
    distance = sum(huber(ours[p], theirs[p]) for p in ours) / len(ours)
    triples = list(itertools.permutations(range(len(s)), 3))
    angle = sum(
        huber(cos(s[j] - s[i], s[k] - s[i]), cos(t[j] - t[i], t[k] - t[i])) for i, j, k in triples
    ) / len(triples)  # fmt: skip
    found = term(build("rkd", "paper", distance_weight=3.0, angle_weight=7.0), "rkd", sides())
    assert found == pytest.approx(3 * distance + 7 * angle, rel=1e-9)


def test_pkt_paper_leaves_a_sample_out_of_its_neighbours() -> None:
    student, teacher = sides()

    def probability(x: Tensor, i: int, j: int) -> float:
        def near(k: int) -> float:
            return (cos(x[i], x[k]) + 1) / 2

        return near(j) / sum(near(k) for k in range(len(x)) if k != i)

    wanted = 0.0
    for i, j in itertools.permutations(range(5), 2):
        p, q = probability(teacher.pooled_BD, i, j), probability(student.pooled_BD, i, j)
        wanted += p * math.log(p / q) / 25
    assert term(build("pkt", "paper", feat_weight=1.0, eps=1e-12), "pkt", sides()) == pytest.approx(wanted, rel=1e-9)


def test_cc_paper_is_the_kernel_s_series() -> None:
    student, teacher = sides()

    def kernel(a: Tensor, b: Tensor) -> float:
        c = cos(a, b)
        return math.exp(-0.8) * (1 + 0.8 * c + 0.32 * c * c)

    gaps = [
        kernel(student.pooled_BD[i], student.pooled_BD[j]) - kernel(teacher.pooled_BD[i], teacher.pooled_BD[j])
        for i in range(5)
        for j in range(5)
    ]
    wanted = sum(gap * gap for gap in gaps) / 25
    method = build("cc", "paper", feat_weight=1.0)
    assert term(method, "cc", sides()) == pytest.approx(wanted, rel=1e-12)
    assert method.added_parameters() == 0


def test_cc_of_torchdistill_is_the_norm_over_the_embeddings() -> None:
    student, teacher = sides()
    method = build("cc", "torchdistill", feat_weight=0.003, embed_dim=6)
    u, v = method.embed_student(student.pooled_BD), method.embed_teacher(teacher.pooled_BD)

    def kernel(a: Tensor, b: Tensor) -> float:
        p = (a @ b).item()
        return math.exp(-0.8) * (1 + 0.8 * p + 0.32 * p * p)

    square = sum((kernel(u[i], u[j]) - kernel(v[i], v[j])) ** 2 for i in range(5) for j in range(5))
    assert term(method, "cc", sides()) == pytest.approx(0.003 * math.sqrt(square) / 25, rel=1e-12)
    assert method.added_parameters() == sum(p.numel() for p in method.parameters()) > 0


def test_nst_original_takes_the_last_maps_before_their_relu() -> None:
    student, teacher = (side._replace(preact_features=tuple(f - 0.5 for f in side.features)) for side in sides())
    wanted = 0.0
    for s, t in zip(student.preact_features[-1].flatten(2), teacher.preact_features[-1].flatten(2), strict=True):
        for a, b, sign in ((s, s, 1), (t, t, 1), (s, t, -2)):
            wanted += sign * sum(cos(x, y) ** 2 for x in a for y in b) / len(a) / len(b) / len(student.logits_BK)
    assert term(build("nst", "original"), "nst", (student, teacher)) == pytest.approx(50 * wanted, rel=1e-9)
    longer = Setting(student=Shapes(5, 10, MAPS), teacher=Shapes(5, 10, FOUR_STAGES))
    assert build("nst", "original", longer).pairs == ((3, 4),)


@pytest.mark.parametrize("shape", [(3, 4, 30), (9, 8, 3)])
def test_nst_kernel_by_either_matrix(shape: tuple[int, int, int]) -> None:
    c, d, n = shape
    g = torch.Generator().manual_seed(0)
    a_BCN, b_BDN = torch.randn(2, c, n, generator=g).double(), torch.randn(2, d, n, generator=g).double()
    wanted = sum(float(a_BCN[b, i] @ b_BDN[b, j]) ** 2 for b in range(2) for i in range(c) for j in range(d))
    assert mean_kernel(a_BCN, b_BDN).item() == pytest.approx(wanted / (2 * c * d), rel=1e-12)


def test_nst_paper_is_half_of_the_published_weight() -> None:
    whole, half = (term(build("nst", variant), "nst", sides()) for variant in ("matched", "paper"))
    assert half == pytest.approx(whole / 2, rel=1e-12)


def test_vid_starts_at_its_variance_and_mdistiller_stays_there() -> None:
    for variance in (5.0, 1e-3, 900.0):
        scale = torch.tensor(start_of(variance, 1e-5), dtype=torch.float64)
        assert F.softplus(scale).item() + 1e-5 == pytest.approx(variance, rel=1e-6)
    assert all(scale.requires_grad for scale in build("vid").log_scales)
    assert not any(scale.requires_grad for scale in build("vid", "mdistiller").log_scales)


@pytest.mark.parametrize("shape", [(20, 6), (4, 9)])
def test_singular_vectors_have_the_framework_s_gradient(shape: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(3)
    ours = torch.randn(2, *shape, generator=g).double().requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    aim = torch.randn(2, shape[1], 3, generator=g).double()
    found = right_vectors(ours, 3)[0]
    reference = torch.linalg.svd(theirs, full_matrices=False)[2].transpose(1, 2)[:, :, :3]
    assert torch.equal(found, reference)
    ((found - aim) ** 4).sum().backward()
    ((reference - aim) ** 4).sum().backward()
    assert ours.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_kdsvd_does_not_depend_on_the_signs_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, svd = sides(), torch.linalg.svd
    before = {variant: term(build("kdsvd", variant), "kdsvd", pair) for variant in ("matched", "repdistiller")}
    teacher_first = pixels_by_channels(pair[1].features[2])

    def flipped(x: Tensor, full_matrices: bool) -> Any:
        u, s, v = svd(x, full_matrices=full_matrices)
        return (u, s, -v) if torch.equal(x, teacher_first) else (u, s, v)

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    after = {variant: term(build("kdsvd", variant), "kdsvd", pair) for variant in before}
    assert after["matched"] == pytest.approx(before["matched"], rel=1e-12)
    assert after["repdistiller"] != pytest.approx(before["repdistiller"], rel=1e-2)


def test_fitnet_paper_has_a_stage_of_hints_and_a_falling_weight() -> None:
    student, teacher = sides()
    method = build("fitnet", "paper", hint_layer=2, feat_weight=6.0, first_epochs=7, first_lr=0.02)
    assert method.first_stage == (7, 0.02)
    assert method.first_stage_depth == 3 and method.first_stage_trains == "stages+own"
    assert method.first_stage_modules() == (method.regressor,)
    assert not any(p.requires_grad for p in method.parameters()) and build("fitnet").first_stage_modules() == ()
    batch = Batch(image_BCHW=student.logits_BK, label_B=torch.arange(5), index_B=torch.arange(5))
    regressed = method.regressor.conv(student.features[2]).relu()
    wanted = 3 * ((regressed - teacher.features[2]) ** 2).mean()
    assert torch.allclose(method.first_stage_terms(student, teacher, batch)["hint"], wanted)
    p, q = (F.softmax(x.logits_BK / 3, 1) for x in (teacher, student))
    cross = float(-(p * q.log()).sum() / 5)
    for progress, weight in ((0.0, 4.0), (5.0, 2.5), (10.0, 1.0), (11.0, 1.0)):
        assert term(method, "kd", (student, teacher), progress) == pytest.approx(weight * cross, rel=1e-9)


def test_fitnet_regressor_where_none_is_published() -> None:
    small = Setting(student=Shapes(5, 10, ((4, 3, 3),)), teacher=Shapes(5, 10, ((6, 8, 8),)))
    with pytest.raises(InputError, match="height 3 to height 8"):
        build("fitnet", setting=small, hint_layer=0)
    method = build("fitnet", "simkd", small, hint_layer=0)
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 4, 3, 3, generator=g).double(), torch.randn(2, 6, 8, 8, generator=g).double()
    wanted = ((method.regressor(s) - F.adaptive_avg_pool2d(t, 3)) ** 2).mean()
    zeros = torch.zeros(2, 5).double()
    pair = ModelOutput(zeros, zeros, (s,)), ModelOutput(zeros, zeros, (t,))
    assert term(method, "fitnet", pair) == pytest.approx(100 * wanted.item(), rel=1e-9)


def test_lists_of_different_length() -> None:
    setting = Setting(student=Shapes(5, 10, MAPS), teacher=Shapes(5, 10, FOUR_STAGES))
    for variant in ("repdistiller", "mdistiller", "simkd"):
        assert stage_pairs(setting, variant, "at") == ((1, 1), (2, 2), (3, 3))
    assert stage_pairs(setting, "aligned", "at") == ((1, 2), (2, 3), (3, 4))
    for name in ("at", "nst", "vid", "kdsvd"):
        for variant in ("default", "paper"):
            with pytest.raises(InputError, match="student has 3 stage maps, the teacher 4: choose variant=repdist"):
                build(name, variant, setting)
    for name, advice in (("hkd", "semckd"), ("irg", "semckd")):
        with pytest.raises(InputError, match=f"{name}: the student has 3 stage maps.*: choose variant={advice}"):
            build(name, "paper", setting)
        assert advice in DISTILLERS.get(name).variants
    with pytest.raises(InputError, match="kdsvd needs stages of equal channels, and has 6"):
        build("kdsvd", "aligned", setting)
    with pytest.raises(InputError, match="share maps 0 to 3 only"):
        build("fitnet", setting=setting, hint_layer=4)
    with pytest.raises(InputError, match="cc needs the shapes of both"):
        build("cc", setting=Setting(student=Shapes(5, 10, MAPS)))
