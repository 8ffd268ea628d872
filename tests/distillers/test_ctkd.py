"""CTKD: its temperature's range and reversed gradient, and standardised logits (LSKD's copy) against a loop."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.contracts import Batch, InputError, ModelOutput, Setting, Shapes
from pipeline.distillers.common.temperatures import instance_temperature_loss
from pipeline.distillers.ctkd import CTKD

ROWS, CLASSES = 5, 7
LABEL = torch.arange(ROWS) % CLASSES


def logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64) * 2).requires_grad_()


STUDENT, TEACHER = logits(0), logits(1).detach()


def terms_of(method: CTKD, progress: float = 3.5) -> dict[str, Tensor]:
    batch = Batch(image_BCHW=LABEL, label_B=LABEL, index_B=LABEL)
    return method(ModelOutput(STUDENT, STUDENT), ModelOutput(TEACHER, TEACHER), batch, STUDENT.new_tensor(progress))


def distance_of(student_BK: Tensor, teacher_BK: Tensor, T: Tensor) -> Tensor:
    p_BK, q_BK = (student_BK / T).softmax(dim=1), (teacher_BK / T).softmax(dim=1)
    return T**2 * (q_BK * (q_BK.log() - p_BK.log())).sum(dim=1).mean()


@pytest.mark.parametrize(("variant", "span"), [("original", 20), ("paper", 19)])
def test_the_temperatures_gradient_is_reversed(variant: str, span: int) -> None:
    method = CTKD(CTKD.Config(), None, variant).double()
    g = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(0.9 * distance_of(STUDENT, TEACHER, 1 + span * g.sigmoid()), g)
    for progress, factor in ((0.0, 0.5 * (1 + math.cos(math.pi / 10)) - 1), (4.9, -0.5), (9.0, -1.0), (200.0, -1.0)):
        (gradient,) = torch.autograd.grad(terms_of(method, progress)["kd"], [*method.parameters()])
        assert gradient.item() == pytest.approx(factor * slope.item(), rel=1e-9)


@pytest.mark.parametrize(("variant", "start", "end"), [("original", 15.62, 21.0), ("paper", 14.89, 20.0)])
def test_it_starts_and_ends_where_its_variant_says(variant: str, start: float, end: float) -> None:
    method = CTKD(CTKD.Config(), None, variant)
    assert method.temperature(torch.ones(())).item() == pytest.approx(start, abs=0.005)
    for g, limit in ((-100.0, 1.0), (100.0, end)):
        torch.nn.init.constant_(method.global_T, g)
        assert method.temperature(torch.ones(())).item() == pytest.approx(limit)


def test_dkd_takes_the_same_temperature() -> None:
    """alpha * (label against the rest) + beta * (the rest among itself), by loops, and the reversed gradient."""
    method = CTKD(CTKD.Config(kd_weight=0.0, dkd_alpha=1.5, dkd_beta=2.0)).double()

    def loop(T: Tensor) -> Tensor:
        total = T.new_zeros(())
        for student_K, teacher_K, label in zip(STUDENT, TEACHER, LABEL.tolist(), strict=True):
            p_K, q_K = (student_K / T).softmax(dim=0), (teacher_K / T).softmax(dim=0)
            p, q = p_K[label], q_K[label]
            total = total + 1.5 * (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log())
            for k in range(CLASSES):
                if k != label:
                    own, other = p_K[k] / (1 - p), q_K[k] / (1 - q)
                    total = total + 2.0 * other * (other / own).log()
        return total * T**2 / ROWS

    g = torch.ones((), dtype=torch.float64, requires_grad=True)
    wanted = loop(1 + 20 * g.sigmoid())
    terms = terms_of(method, 9.0)
    assert terms["kd"].item() == 0 and terms["dkd"].item() == pytest.approx(wanted.item(), rel=1e-9)
    (slope,) = torch.autograd.grad(wanted, g)
    (gradient,) = torch.autograd.grad(terms["dkd"], [*method.parameters()])
    assert gradient.item() == pytest.approx(-slope.item(), rel=1e-9)
    assert "dkd" not in terms_of(CTKD(CTKD.Config()).double())


def test_an_end_below_its_start_is_refused() -> None:
    CTKD(CTKD.Config(t_start=4.0, t_range=2.0), None, "original")
    with pytest.raises(InputError, match=r"t_start=4.0 is above"):
        CTKD(CTKD.Config(t_start=4.0, t_range=2.0), None, "paper")


def scores(z: list[float]) -> list[float]:
    """(z - mean) / (deviation over K - 1, plus 1e-7)."""
    mean = sum(z) / CLASSES
    deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / (CLASSES - 1))
    return [(x - mean) / (deviation + 1e-7) for x in z]


def test_standardised_logits_are_the_loop() -> None:
    """In the divergence and the temperature's gradient; the cross-entropy sees the logits themselves."""
    config = CTKD.Config(standardise=True, t_start=2.0, t_range=40.0, kd_weight=9.0)
    method = CTKD(config, None, "original").double()
    T, total = 2 + 40 / (1 + math.exp(-1.0)), 0.0
    for rows in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        powers = [[math.exp(x / T) for x in scores(z)] for z in rows]
        p, q = ([x / sum(row) for x in row] for row in powers)
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    terms = terms_of(method)
    assert terms["kd"].item() == pytest.approx(9 * T**2 * total / ROWS, rel=1e-9)
    assert terms["ce"].item() == terms_of(CTKD(CTKD.Config()).double())["ce"].item()
    g = torch.ones((), dtype=torch.float64, requires_grad=True)
    student_BK, teacher_BK = (STUDENT.new_tensor([scores(z) for z in x.tolist()]) for x in (STUDENT, TEACHER))
    (slope,) = torch.autograd.grad(9 * distance_of(student_BK, teacher_BK, 2 + 40 * g.sigmoid()), g)
    (gradient,) = torch.autograd.grad(terms_of(method, 9.0)["kd"], [*method.parameters()])
    assert gradient.item() == pytest.approx(-slope.item(), rel=1e-9)


SETTING = Setting(student=Shapes(CLASSES, 1, ()), teacher=Shapes(CLASSES, 1, ()))


def test_the_loss_of_a_temperature_for_each_sample_is_a_loop_over_them() -> None:
    T_B = torch.tensor([1.0, 2.5, 4.0, 9.0, 20.0], dtype=torch.float64, requires_grad=True)
    wanted = torch.zeros((), dtype=torch.float64)
    for s, t, T in zip(STUDENT, TEACHER, T_B, strict=True):
        q = (t / T).softmax(dim=0) + 1e-7
        wanted = wanted + T**2 * (q * (q.log() - (s / T).log_softmax(dim=0))).sum() / ROWS
    found = instance_temperature_loss(STUDENT, TEACHER, T_B)
    assert torch.allclose(found, wanted, rtol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found, [STUDENT, T_B]), torch.autograd.grad(wanted, [STUDENT, T_B]), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-10)


def test_a_network_learns_a_temperature_for_each_sample_against_the_student() -> None:
    torch.manual_seed(0)
    method = CTKD(CTKD.Config(), SETTING, "instance").double()
    start = instance_temperature_loss(STUDENT, TEACHER, torch.full((ROWS,), 11.0, dtype=torch.float64))
    assert terms_of(method)["kd"].item() == pytest.approx(0.9 * start.item(), rel=1e-12)
    assert method.network is not None
    for parameter in method.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    gradients = {
        progress: torch.autograd.grad(terms_of(method, progress)["kd"], [*method.parameters()])
        for progress in (4.0, 9.0)  # factors -.5 and -1
    }
    for half, whole in zip(gradients[4.0], gradients[9.0], strict=True):
        assert torch.allclose(half, whole / 2, rtol=1e-9) and bool(whole.abs().max() > 0)
    spread = method.network(STUDENT, TEACHER)
    assert spread.shape == (ROWS,) and spread.std() > 0.01
    shuffled = torch.randperm(CLASSES)
    assert torch.allclose(method.network(STUDENT[:, shuffled], TEACHER[:, shuffled]), spread, rtol=1e-9)
    easy = terms_of(method, 9.0)["kd"].item()
    with torch.no_grad():
        for parameter, slope in zip(method.parameters(), gradients[9.0], strict=True):
            parameter -= 1e-4 * slope
    assert terms_of(method, 9.0)["kd"].item() > easy  # a step downhill is one uphill for the student


def test_instances_and_dkd_are_refused() -> None:
    with pytest.raises(InputError, match="no DKD part"):
        CTKD(CTKD.Config(dkd_alpha=1.0), SETTING, "instance")


def test_a_batch_of_one_sample_has_its_temperature_too() -> None:
    method = CTKD(CTKD.Config(), SETTING, "instance").double()
    student, teacher = (ModelOutput(z[:1], z[:1]) for z in (STUDENT, TEACHER))
    batch = Batch(image_BCHW=LABEL[:1], label_B=LABEL[:1], index_B=LABEL[:1])
    kd = method(student, teacher, batch, STUDENT.new_tensor(3.5))["kd"]
    wanted = 0.9 * instance_temperature_loss(STUDENT[:1], TEACHER[:1], torch.full((1,), 11.0, dtype=torch.float64))
    assert torch.allclose(kd, wanted, rtol=1e-12)
