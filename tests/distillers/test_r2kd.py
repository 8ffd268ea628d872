"""R2KD's ranks and choices, besides the golden cases and what test_logits_b.py asks of every method."""

import math
from typing import Any

import pytest
import torch
from distillers.test_logits_b import gradients_of, leaves_of, made, terms_of
from torch import Tensor

from pipeline.distillers.common import ranks
from pipeline.distillers.common.ranks import soft_ranks, soft_spearman, spearman
from pipeline.distillers.common.uncertain import most_uncertain
from pipeline.distillers.r2kd import R2KD, value_loss
from pipeline.utils.mixing import entropy


def logits(rows: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def obvious_ranks(row: list[float], T: float) -> list[float]:
    """1 + the sum of sigmoids over the other entries, less the mean rank."""
    wins = [[1 / (1 + math.exp((b - a) / T)) for j, b in enumerate(row) if j != i] for i, a in enumerate(row)]
    return [1 + sum(found) - (len(row) + 1) / 2 for found in wins]


@pytest.mark.parametrize("T", [0.3, 1.0, 5.0])
def test_soft_ranks_are_the_obvious_sum(T: float) -> None:
    z_BK = logits(3, 6)
    wanted = torch.tensor([obvious_ranks(row, T) for row in z_BK.tolist()], dtype=torch.float64)
    assert torch.allclose(soft_ranks(z_BK, T), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("largest", [1, 100, 2**24])
def test_soft_ranks_have_their_gradient_in_any_chunks(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    monkeypatch.setattr(ranks, "LARGEST", largest)
    z_BK = logits(5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_ranks(z, 0.7), z_BK)
    plain = (torch.sigmoid((z_BK[:, :, None] - z_BK[:, None, :]) / 0.7).sum(dim=2) - 3).square().sum()
    wanted = torch.autograd.grad(plain, z_BK)[0]
    found = torch.autograd.grad(soft_ranks(z_BK, 0.7).square().sum(), z_BK)[0]
    assert torch.allclose(found, wanted, rtol=1e-11)


def test_never_more_comparisons_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, won = [], ranks._won

    def watched(z_CK: Tensor, T: float) -> Tensor:
        found = won(z_CK, T)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(ranks, "_won", watched)
    monkeypatch.setattr(ranks, "LARGEST", 1000)
    z_BK = logits(50, 20).requires_grad_()
    soft_ranks(z_BK, 1.0).square().sum().backward()
    assert max(largest) == 800 and len(largest) == 2 * 25  # two rows of 400 at once, there and back


def test_soft_ranks_harden_with_the_temperature() -> None:
    student, teacher = logits(4, 9), logits(4, 9, 1)
    gaps = [(soft_spearman(student, teacher, T) - spearman(student, teacher)).abs().max() for T in (1.0, 0.1, 1e-4)]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-6
    assert torch.allclose(soft_spearman(student, student, 1.0), torch.ones(4, dtype=torch.float64))
    assert torch.equal(soft_spearman(student * 0, teacher, 1.0), torch.zeros(4, dtype=torch.float64))


def test_the_rank_term_teaches_in_the_paper_s_variant_only() -> None:
    code = terms_of(made(R2KD, {}), leaves_of(6))
    assert not code["rank"].requires_grad and not code["augmented_rank"].requires_grad
    same = leaves_of(6)
    same["teacher"] = same["student"].detach()
    assert terms_of(made(R2KD, {}), same)["rank"].item() == pytest.approx(0, abs=1e-6)
    assert terms_of(made(R2KD, {}, "paper"), same)["rank"].item() == pytest.approx(0, abs=1e-12)
    leaves, method = leaves_of(6), made(R2KD, {"rank_T": 0.5}, "paper")
    terms = terms_of(method, leaves)
    assert terms["rank"].item() == pytest.approx(code["rank"].item(), abs=0.4) and terms["value"] == code["value"]
    z_BK = leaves["student"]
    before_B = spearman(z_BK, leaves["teacher"])
    for _ in range(300):  # gradient descent on the rank term alone finds the teacher's order, but for near ties
        leaves["student"] = z_BK
        (slope_BK,) = torch.autograd.grad(terms_of(method, leaves)["rank"], z_BK)
        z_BK = (z_BK - 2 * slope_BK).detach().requires_grad_()
    assert terms_of(method, leaves)["rank"] < 0.1 < 1 < terms["rank"]
    assert spearman(z_BK, leaves["teacher"]).min() > before_B.max()


@pytest.mark.parametrize(("variant", "by"), [("original", "teacher"), ("paper", "teacher_other")])
def test_picks_the_unsure_samples(variant: str, by: str) -> None:
    leaves, options = leaves_of(9), {"augment": "cutmixpick", "pick": 4}
    rows = entropy(leaves[by]).argsort(descending=True)[:4]
    assert set(rows.tolist()) != set(entropy(leaves["student"]).argsort(descending=True)[:4].tolist())
    terms = terms_of(made(R2KD, options, variant), leaves)
    student, teacher = leaves["student_other"][rows], leaves["teacher_other"][rows]
    correlation = {"original": spearman(student, teacher), "paper": soft_spearman(student, teacher, 1.0)}[variant]
    assert terms["augmented_value"].item() == pytest.approx(2 * value_loss(student, teacher, 4.0).item(), rel=1e-12)
    assert terms["augmented_rank"].item() == pytest.approx(2 * (1 - correlation.mean().item()), rel=1e-6)
    gradient = gradients_of(terms["augmented_value"], leaves)["student_other"]
    assert set(gradient.abs().sum(dim=1).nonzero().flatten().tolist()) == set(rows.tolist())
    everyone = terms_of(made(R2KD, options | {"pick": 9}, variant), leaves)
    assert torch.equal(everyone["augmented_value"], terms_of(made(R2KD, {}, variant), leaves)["augmented_value"])


def test_equal_entropies_are_chosen_together() -> None:
    """So that every rank finds the same ones without a word about who comes first."""
    teacher_BK = torch.tensor([[9.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    def gather(x: Any) -> Any:
        return x

    chosen = most_uncertain(teacher_BK, 2, gather)
    assert chosen is not None and chosen.own_B.tolist() == chosen.all_G.tolist() == [0, 1, 1, 1]
    assert most_uncertain(teacher_BK, 4, gather) is None


def test_only_the_official_code_has_its_pruned_copy_in_training_mode() -> None:
    assert R2KD.teacher_in_train_mode == {"original"} and set(R2KD.variants) == {"original", "paper"}
