"""Formulas of the second feature group against slow loops in float64."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from distillers.features_b import (
    ROWS,
    SAMPLES,
    STUDENT,
    TEACHER,
    batch_of,
    built,
    output,
    stopped,
)  # fmt: skip
from torch import Tensor, nn

from pipeline.distillers.ab import boundary_loss
from pipeline.distillers.common.layers import BatchNorm
from pipeline.distillers.common.maps import max_pool_to, pool_to, unit_rows
from pipeline.distillers.common.negatives import nce_loss
from pipeline.distillers.fsp import fsp_matrix, norm_gap
from pipeline.distillers.ft import factor_loss, whole
from pipeline.distillers.ofd import ofd_margin, partial_l2
from pipeline.distillers.reviewkd import hcl


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@pytest.mark.parametrize("eps", [1e-7, 0.0])
def test_nce_is_the_obvious_sum(eps: float) -> None:
    score, z, noise, wanted = normal(3, 5, scale=4.0), 7.0, 0.3, 0.0
    for row in score.tolist():
        o = [math.exp(s) / z for s in row]
        wanted -= math.log(o[0] / (o[0] + noise + eps)) / 3
        wanted -= sum(math.log(noise / (x + noise + eps)) for x in o[1:]) / 3
    found = nce_loss(score, torch.tensor(z, dtype=torch.float64).log(), noise, eps)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_crd_of_the_paper_has_no_z() -> None:
    method, student, teacher = built("crd", "paper"), output(STUDENT, 0), stopped(output(TEACHER, 1))
    banks = method.memory_student.clone(), method.memory_teacher.clone()
    place = method._places(batch_of())
    found = method(student, teacher, batch_of(), torch.tensor(0.0))["crd"].item()
    u, w = (unit_rows(e(o.pooled_BD)) for e, o in ((method.embed_student, student), (method.embed_teacher, teacher)))
    wanted = 0.0
    for x_BD, bank in ((u, banks[1]), (w, banks[0])):
        for b in range(ROWS):
            scores = [(x_BD[b] @ bank[n]).item() / method.temperature.item() for n in place[b]]
            h = [math.exp(s) / (math.exp(s) + 8 / SAMPLES) for s in scores]
            wanted -= (math.log(h[0]) + sum(math.log(1 - x) for x in h[1:])) / ROWS
    assert found == pytest.approx(0.8 * wanted, rel=1e-9)


def test_ofd_margin_is_the_mean_of_the_negative_part() -> None:
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 0.3, 0.0]))
        norm.bias.copy_(torch.tensor([0.2, -0.4, 2.0, -0.1]))
    found = ofd_margin(norm)
    x = torch.linspace(-12, 0, 2_000_001, dtype=torch.float64)
    for i, (sigma, mu) in enumerate(((0.5, 0.2), (1.0, -0.4))):
        density = torch.exp(-((x - mu) ** 2) / (2 * sigma**2))
        assert found[i].item() == pytest.approx(float((x * density).sum() / density.sum()), rel=1e-4)
    assert found[2].item() == pytest.approx(-0.9)  # hardly ever negative
    assert found[3].item() == pytest.approx(-0.1)  # a constant


def test_partial_l2_has_the_three_published_cases() -> None:
    student, teacher, margin = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1), torch.tensor([-0.5, -0.1, -1.0])
    wanted = 0.0
    for b, c, h, w in torch.cartesian_prod(*(torch.arange(n) for n in student.shape)).tolist():
        s, t, m = student[b, c, h, w].item(), teacher[b, c, h, w].item(), margin[c].item()
        wanted += (s - m) ** 2 * (s > m and t <= m)
        wanted += (s - t) ** 2 * (s > t and m < t <= 0)
        wanted += (s - t) ** 2 * (t > 0)
    assert partial_l2(student, teacher, margin.double()).item() == pytest.approx(wanted / 2, rel=1e-6)


@pytest.mark.parametrize(("size", "weights"), [(8, [0.5, 0.25, 0.125]), (4, [0.5, 0.25]), (2, [0.5]), (1, [])])
def test_hcl_weighs_the_poolings_that_are_smaller(size: int, weights: list[float]) -> None:
    student, teacher = normal(2, 3, size, size), normal(2, 3, size, size, seed=1)
    wanted = F.mse_loss(student, teacher)
    sides = [side for side in (4, 2, 1) if side < size]
    for side, weight in zip(sides, weights, strict=True):
        wanted = wanted + weight * F.mse_loss(*(F.adaptive_avg_pool2d(x, side) for x in (student, teacher)))
    assert hcl(student, teacher).item() == pytest.approx(wanted.item() / (1 + sum(weights)), rel=1e-12)


def test_reviewkd_warms_up_over_whole_epochs_from_one() -> None:
    method, student, teacher = built("reviewkd").eval(), output(STUDENT, 0), stopped(output(TEACHER, 1))
    full, *part = (
        method(student, teacher, batch_of(), torch.tensor(at))["review"].item()
        for at in (30.0, 0.0, 0.9, 1.0, 18.9, 19.0)
    )
    assert part == pytest.approx([full * n / 20 for n in (1, 1, 2, 19, 20)])


def test_reviewkd_counts_the_first_map_of_a_stemless_student() -> None:
    stemless = STUDENT._replace(features=STUDENT.features[1:], preact=STUDENT.preact[1:])
    assert built("reviewkd", student=stemless).stages == 1
    method = built("reviewkd", student=stemless, config={"stemless_student": True, "student_preact": True})
    assert method.stages == 2 and [f.conv1[0].in_channels for f in method.fusions] == [4, 4, 3]
    found = method(output(stemless, 0), stopped(output(TEACHER, 1)), batch_of(), torch.tensor(0.0))
    assert found["review"].isfinite()


def test_boundary_loss_is_the_published_sum() -> None:
    student, teacher, wanted = normal(2, 3, 2, 2, scale=2.0), normal(2, 3, 2, 2, seed=1), 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        wanted += (s + 0.7) ** 2 * (s > -0.7 and t <= 0) + (s - 0.7) ** 2 * (s <= 0.7 and t > 0)
    assert boundary_loss(student, teacher, 0.7).item() == pytest.approx(wanted / 2, rel=1e-12)


def test_fsp_matrix_is_a_mean_over_positions() -> None:
    bottom, top = normal(2, 3, 4, 4), normal(2, 5, 2, 2, seed=1)
    small = F.avg_pool2d(bottom, 2)
    wanted = torch.zeros(2, 3, 5, dtype=torch.float64)
    for h in range(2):
        for w in range(2):
            wanted += small[:, :, None, h, w] * top[:, None, :, h, w] / 4
    assert torch.allclose(fsp_matrix(bottom, top), wanted, rtol=1e-12)
    pooled = F.max_pool2d(bottom, 2).flatten(2) @ top.flatten(2).transpose(1, 2) / 4
    assert torch.allclose(fsp_matrix(bottom, top, max_pool_to), pooled, rtol=1e-12)
    gap = norm_gap(wanted, 2 * wanted).item()
    assert gap == pytest.approx(sum(float(x) ** 2 for x in wanted.flatten()) / 2, rel=1e-12)


@pytest.mark.parametrize("size", [4, 3])
def test_fsp_of_the_paper_pools_by_max_and_sums(size: int) -> None:
    """Against a loop over entries; 8 pixels to 3 are windows that overlap."""
    shapes = STUDENT._replace(features=((3, 8, 8), (2, 8, 8), (4, size, size)))
    method, student, teacher = built("fsp", "paper", student=shapes), output(shapes, 0), stopped(output(shapes, 1))
    student, teacher = (
        o._replace(features=tuple(normal(2, *f, seed=s) for f in shapes.features))
        for o, s in ((student, 2), (teacher, 3))
    )

    def matrix(bottom: Tensor, top: Tensor) -> Tensor:
        small = top.shape[-1]
        cuts = [(i * 8 // small, -(-(i + 1) * 8 // small)) if small < 8 else (i, i + 1) for i in range(small)]
        found = torch.zeros(len(bottom), len(top), dtype=torch.float64)
        for c, e, h, w in torch.cartesian_prod(*(torch.arange(n) for n in (*found.shape, small, small))).tolist():
            window = bottom[c, slice(*cuts[h]), slice(*cuts[w])]
            found[c, e] += max(window.flatten().tolist()) * top[e, h, w] / small**2
        return found

    wanted = sum(
        (matrix(s[b], s2[b]) - matrix(t[b], t2[b])).square().sum().item() / 2
        for b in range(2)
        for (s, s2), (t, t2) in zip(pairwise(student.features), pairwise(teacher.features), strict=True)
    )
    found = method.first_stage_terms(student, teacher, batch_of())["fsp"]
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_factor_of_the_paper_is_whole() -> None:
    student, teacher = normal(2, 3, 4, 4), normal(2, 3, 2, 2, seed=1)
    small = F.avg_pool2d(student, 2).flatten(1)
    wanted = 0.0
    for s, t in zip(small, teacher.flatten(1), strict=True):
        wanted += sum(abs(a / s.norm() - b / t.norm()).item() for a, b in zip(s, t, strict=True)) / 24
    assert factor_loss(student, teacher, reading=whole).item() == pytest.approx(wanted, rel=1e-12)


def test_ft_of_the_authors_code_has_no_batch_norm_and_learns_by_absolute_differences() -> None:
    method, student, teacher = built("ft", "original", config={"k": 0.6}), output(STUDENT, 0), output(TEACHER, 1)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in method.modules())
    kinds = [type(m) for m in method.paraphraser.decoder]
    assert kinds[::3] == [nn.ConvTranspose2d] * 3 and kinds[2::3] == [nn.LeakyReLU] * 3
    widths = [m.out_channels for m in (*method.paraphraser.encoder[::3], *method.translator[::3])]
    assert widths == [6, 4, 4, 4, 4, 4]  # round(.6 * 6)
    map_BCHW = teacher.features[-1].detach()
    found = method.first_stage_terms(student, stopped(teacher), batch_of())["reconstruction"].item()
    gap = method.paraphraser.decoder(method.paraphraser.encoder(map_BCHW)) - map_BCHW
    assert found == pytest.approx(sum(abs(x) for x in gap.flatten().tolist()) / gap.numel(), rel=1e-12)
    term = method(student, stopped(teacher), batch_of(), torch.tensor(0.0))["ft"].item()
    s, t = method.translator(student.features[-1]).flatten(1), method.paraphraser.encoder(map_BCHW).flatten(1)
    rows = [abs(a / a.norm() - b / b.norm()).sum().item() for a, b in zip(s, t, strict=True)]
    assert term == pytest.approx(200 * sum(rows) / s.numel(), rel=1e-12)


def test_a_frozen_paraphraser_keeps_its_statistics() -> None:
    method, student, teacher = built("ft", "paper"), output(STUDENT, 0), stopped(output(TEACHER, 1))
    before = {key: value.clone() for key, value in method.paraphraser.state_dict().items()}
    method.train()
    method(student, teacher, batch_of(), torch.tensor(0.0))
    assert all(torch.equal(value, method.paraphraser.state_dict()[key]) for key, value in before.items())
    method.paraphraser.requires_grad_(True)
    method.train()
    method.first_stage_terms(student, teacher, batch_of())
    assert not torch.equal(before["encoder.1.running_mean"], method.paraphraser.state_dict()["encoder.1.running_mean"])


def test_semckd_is_the_obvious_sum_for_a_short_batch() -> None:
    method = built("semckd", batch_size=16, config={"kd_weight": 0.0}).eval()
    student, teacher = output(STUDENT, 0), stopped(output(TEACHER, 1))
    found = method(student, teacher, batch_of(), torch.tensor(0.0))["semckd"].item()

    def embedded(layer: nn.Module, map_BCHW: Tensor, b: int) -> Tensor:
        flat = map_BCHW.flatten(1)
        row = torch.zeros(16, dtype=torch.float64)
        for j in range(ROWS):
            row[j] = flat[b] @ flat[j]
        vector = layer.linear2(F.relu(layer.linear1(row)))
        return vector / vector.norm()

    wanted = 0.0
    for b in range(ROWS):
        for i, s in enumerate(student.features[1:]):
            query = embedded(method.queries[i], s, b)
            scores = torch.stack(
                [query @ embedded(k, t, b) for k, t in zip(method.keys, teacher.features[1:], strict=True)]
            )
            for j, (share, t) in enumerate(zip(scores.softmax(0), teacher.features[1:], strict=True)):
                side = min(s.shape[-1], t.shape[-1])
                small_s, small_t = (F.adaptive_avg_pool2d(x[b : b + 1], side) for x in (s, t))
                wanted += share.item() * F.mse_loss(method.regressors[i][j](small_s), small_t).item() / (ROWS * 2)
    assert found == pytest.approx(400 * wanted, rel=1e-9)


@pytest.mark.parametrize("sizes", [(8, 4), (8, 3), (4, 8), (6, 6)])
def test_pooling_is_adaptive(sizes: tuple[int, int]) -> None:
    map_BCHW = normal(2, 3, sizes[0], sizes[0])
    assert torch.allclose(pool_to(map_BCHW, sizes[1], sizes[1]), F.adaptive_avg_pool2d(map_BCHW, sizes[1]), rtol=1e-12)


def test_batch_norm_takes_one_value() -> None:
    layer = BatchNorm(3).double()
    layer.running_mean.fill_(1.0)
    one = normal(1, 3, 1, 1)
    assert torch.allclose(layer(one), (one - 1) / math.sqrt(1 + layer.eps))
    plain = nn.BatchNorm2d(3).double()
    plain.running_mean.fill_(1.0)
    several = normal(4, 3, 1, 1)
    assert torch.equal(layer(several), plain(several)) and torch.equal(layer.running_var, plain.running_var)
