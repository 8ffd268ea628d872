"""IRG and HKD against slow loops: the forms that no golden number covers."""

import math
from typing import Any

import pytest
import torch
from test_features_a import build, cos, sides, term
from torch import Tensor

from pipeline.contracts import ModelOutput, Setting, Shapes


def squares(x: Tensor) -> Tensor:
    raw = torch.tensor([[float((a - b) @ (a - b)) for b in x] for a in x], dtype=torch.float64)
    return raw / raw.max()


def way(f: Tensor, g: Tensor) -> list[float]:
    """Squared way of each sample from one globally pooled map to a wider one over the longest."""
    ratio = g.shape[1] // f.shape[1]
    ways = []
    for a, b in zip(f.mean((2, 3)), g.mean((2, 3)), strict=True):
        after = [float(b[ratio * c : ratio * (c + 1)].mean()) for c in range(len(a))]
        ways.append(sum((float(x) - y) ** 2 for x, y in zip(a, after, strict=True)))
    return [w / max(ways) for w in ways]


def test_irg_of_pooled_vectors() -> None:
    student, teacher = sides()
    gaps = (squares(student.pooled_BD) - squares(teacher.pooled_BD)) ** 2
    assert term(build("irg", feat_weight=1.0), "irg", (student, teacher)) == pytest.approx(float(gaps.mean()), rel=1e-9)


@pytest.mark.parametrize(
    ("widths", "compared"), [((4, 4, 8, 8), (1, 2, 3)), ((4, 6, 12, 18), (2,)), ((3, 4, 6, 10), ())]
)
def test_irg_paper_is_half_the_sum_of_squares_as_caffe_has_it(
    widths: tuple[int, ...], compared: tuple[int, ...]
) -> None:
    """compared: stages whose vertices move between layers of comparable width."""
    sizes = (8, 8, 4, 4)
    maps = tuple((c, side, side) for c, side in zip(widths, sizes, strict=True))
    setting = Setting(student=Shapes(5, 10, maps), teacher=Shapes(5, 12, maps))
    g = torch.Generator().manual_seed(4)

    def made(pooled: int) -> ModelOutput:
        logits_BK, pooled_BD = (torch.randn(6, n, generator=g).double() for n in (5, pooled))
        return ModelOutput(logits_BK, pooled_BD, tuple(torch.randn(6, *m, generator=g).double().relu() for m in maps))

    student, teacher = made(10), made(12)
    s_edges, t_edges = (
        [squares(f.flatten(1)) for f in side.features[1:]] + [squares(side.pooled_BD)] for side in (student, teacher)
    )
    wanted = float(((student.logits_BK - teacher.logits_BK) ** 2).sum() + ((s_edges[-1] - t_edges[-1]) ** 2).sum()) / 12
    for i in range(3):
        ours, theirs = (float(((e[i] - e[i + 1]) ** 2).mean()) for e in (s_edges, t_edges))
        wanted += 3 * (ours - theirs) ** 2 / 2
    for i in compared:
        ours, theirs = (way(side.features[i - 1], side.features[i]) for side in (student, teacher))
        wanted += 3 * sum((x - y) ** 2 for x, y in zip(ours, theirs, strict=True)) / 2
    method = build("irg", "paper", setting, feat_weight=1.0, transform_weight=3.0)
    assert method.steps == tuple((i, i) for i in compared)
    assert term(method, "irg", (student, teacher)) == pytest.approx(wanted, rel=1e-9)


def flow(s: Tensor, t: Tensor) -> float:
    def rows(x: Tensor, near: Any) -> list[list[float]]:
        table = [[near(a, b) for b in x] for a in x]
        return [[value / sum(row) for value in row] for row in table]

    total = 0.0
    for near in (lambda a, b: (cos(a, b) + 1) / 2, lambda a, b: 1 / (1 + math.sqrt(float((a - b) @ (a - b)) + 1e-6))):
        for p_row, q_row in zip(rows(t, near), rows(s, near), strict=True):
            total += sum((p - q) * math.log(p / q) for p, q in zip(p_row, q_row, strict=True)) / len(s) ** 2
    return total


def test_hkd_weights_fade_with_the_epochs_or_stay_on_the_first_stage() -> None:
    student, teacher = sides(4)
    stages = [flow(s.flatten(1), t.flatten(1)) for s, t in zip(student.features[1:], teacher.features[1:], strict=True)]
    last = flow(student.pooled_BD, teacher.pooled_BD)
    for progress, factor in ((0.0, 100.0), (2.9, 49.0)):
        found = term(build("hkd", "paper"), "hkd", (student, teacher), progress)
        # The authors' eps beside the norms is what separates them from a plain cosine.
        assert found == pytest.approx(last + factor * sum(stages), rel=1e-5)
    found = term(build("hkd"), "hkd", (student, teacher), 2.9)
    assert found == pytest.approx(100 * stages[0] + stages[1] + stages[2], rel=1e-5)
