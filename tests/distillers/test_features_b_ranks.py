"""CRD's negatives and banks, two ranks against one, SimKD without a teacher."""

import copy
import math

import pytest
import torch
from distillers.features_b import (
    CLASSES,
    ROWS,
    SAMPLES,
    STUDENT,
    TEACHER,
    batch_of,
    built,
    leaves,
    output,
    rows_of,
    setting_for,
    stopped,
    total,
)  # fmt: skip
from torch import Tensor

from pipeline.contracts import Distiller, InputError, ModelOutput
from pipeline.distillers.common.maps import unit_rows
from pipeline.distillers.common.negatives import Negatives
from pipeline.distillers.simkd import SimKD

# ---- negatives -------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([0] * 7 + [1] * 3 + [2] * 10)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(("K", "distinct"), [(10, True), (11, False), (4, True)])
def test_negatives_are_of_other_classes(K: int, distinct: bool) -> None:
    draw, index = Negatives(LABELS, K, seed=3), torch.arange(20)
    for step in range(5):
        found = draw(index, LABELS, torch.tensor(step))
        assert found.shape == (20, K) and found.dtype == torch.int64
        assert (LABELS[found] != LABELS[:, None]).all()
        assert all(len(set(row)) == K for row in found.tolist()) or not distinct


def test_negatives_are_a_function_of_seed_step_and_sample() -> None:
    draw, index = Negatives(LABELS, 6, seed=3), torch.arange(20)
    whole_batch = draw(index, LABELS, torch.tensor(4))
    assert torch.equal(draw(index[5:9], LABELS[5:9], torch.tensor(4)), whole_batch[5:9])
    assert not torch.equal(draw(index, LABELS, torch.tensor(5)), whole_batch)
    assert not torch.equal(Negatives(LABELS, 6, seed=4)(index, LABELS, torch.tensor(4)), whole_batch)


@pytest.mark.parametrize("K", [6, 11])
def test_negatives_are_uniform(K: int) -> None:
    draw, count, steps = Negatives(LABELS, K, seed=1), torch.zeros(20), 3000
    index = torch.tensor([0])
    for step in range(steps):
        count += torch.bincount(draw(index, LABELS[:1], torch.tensor(step))[0], minlength=20)
    others = LABELS[0] != LABELS
    expected = steps * K / int(others.sum())
    assert ((count[others] - expected).abs() < 5 * math.sqrt(expected)).all()
    assert count[~others].sum() == 0


def test_related_samples_share_the_class() -> None:
    draw, index = Negatives(LABELS, 6, seed=1), torch.arange(20)
    found = torch.stack([draw.related(index, LABELS, torch.tensor(step)) for step in range(300)])
    assert (LABELS[found] == LABELS).all()
    for i in range(20):
        assert set(found[:, i].tolist()) == set(torch.nonzero(LABELS[i] == LABELS).flatten().tolist())


# ---- ranks -----------------------------------------------------------------------------------------------------------


SPANS = ((0, 4), (4, ROWS))


def on_each_rank(methods: list[Distiller], student: ModelOutput, teacher: ModelOutput, name: str) -> float:
    """One step of two ranks in one process; the mean of the method's own term over the global batch.

    A first round on copies only records what each rank gives to be gathered; the second one answers with both parts.
    """

    def step(method: Distiller, span: tuple[int, int]) -> float:
        batch = batch_of(range(*span))
        terms = method(rows_of(student, *span), rows_of(teacher, *span), batch, torch.tensor(0.0))
        return terms[name].item() * (span[1] - span[0]) / ROWS

    given: list[list[Tensor]] = []
    for method, span in zip(methods, SPANS, strict=True):
        scout, calls = copy.deepcopy(method), []
        scout.gather_rows = lambda x_B, calls=calls: calls.append(x_B.detach()) or x_B
        step(scout, span)
        given.append(calls)
    whole_batches = [torch.cat(parts) for parts in zip(*given, strict=True)]
    losses = []
    for method, span in zip(methods, SPANS, strict=True):
        answers = iter(whole_batches)
        method.gather_rows = lambda x_B, answers=answers: next(answers)
        losses.append(step(method, span))
    return sum(losses)


def test_crd_on_two_ranks_is_crd_on_one() -> None:
    student, teacher = output(STUDENT, 0), stopped(output(TEACHER, 1))
    method = built("crd")
    wanted = [method(student, teacher, batch_of(), torch.tensor(0.0))["crd"].item() for _ in range(3)]
    methods = [built("crd"), built("crd")]
    found = [on_each_rank(methods, student, teacher, "crd") for _ in range(3)]
    assert found == pytest.approx(wanted, rel=1e-12)
    for key, value in method.state_dict().items():
        for other in methods:
            assert torch.allclose(value, other.state_dict()[key], rtol=1e-12), key
    assert int(method.step) == 3 and (method.normaliser_2 > 0).all()


def test_semckd_on_two_ranks_is_semckd_on_one() -> None:
    student, teacher = output(STUDENT, 0), stopped(output(TEACHER, 1))
    method = built("semckd").eval()
    own = method(student, teacher, batch_of(), torch.tensor(0.0))["semckd"]
    wanted = torch.autograd.grad(own, student.features[1:])
    maps = [x.flatten(1) for x in (*student.features[1:], *teacher.features[1:])]
    parts = []
    for start, stop in ((0, 4), (4, ROWS)):
        # Gathered maps with their gradient: the full maps of whichever matrix was asked for.
        method.gather_rows = lambda x, a=start, b=stop: next(
            m for m in maps if m[a:b].shape == x.shape and torch.equal(m[a:b], x)
        )
        terms = method(
            rows_of(student, start, stop),
            rows_of(teacher, start, stop),
            batch_of(range(start, stop)),
            torch.tensor(0.0),
        )
        parts.append(terms["semckd"] * (stop - start) / ROWS)
    assert sum(parts).item() == pytest.approx(own.item(), rel=1e-12)
    for found, gradient in zip(torch.autograd.grad(sum(parts), student.features[1:]), wanted, strict=True):
        assert torch.allclose(found, gradient, rtol=1e-9, atol=1e-14)


def test_crd_evaluates_without_a_trace() -> None:
    method = built("crd").eval()
    before = copy.deepcopy(method.state_dict())
    method(output(STUDENT, 0), stopped(output(TEACHER, 1)), batch_of(), torch.tensor(0.0))
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in before.items())


def test_crd_banks_become_unit_rows() -> None:
    method, student, teacher = built("crd"), output(STUDENT, 0), stopped(output(TEACHER, 1))
    old = method.memory_student.clone()
    method(student, teacher, batch_of([3, 8, 9, 20, 21, 22]), torch.tensor(0.0))
    u = unit_rows(method.embed_student(student.pooled_BD)).detach()
    for row, i in enumerate([3, 8, 9, 20, 21, 22]):
        mixed = 0.5 * old[i] + 0.5 * u[row]
        assert torch.allclose(method.memory_student[i], mixed / mixed.norm(), rtol=1e-12)
    untouched = [i for i in range(SAMPLES) if i not in (3, 8, 9, 20, 21, 22)]
    assert torch.equal(method.memory_student[untouched], old[untouched])


def test_crd_relaxed_positives_are_of_the_class() -> None:
    method = built("crd", config={"mode": "relax"})
    place = method._places(batch_of())
    assert (place[:, 0] % CLASSES == batch_of().label_B).all()
    assert not torch.equal(place[:, 0], batch_of().index_B)


# ---- SimKD without a teacher -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("swapped", [False, True])
def test_simkd_predicts_from_its_state_alone(factor: int, swapped: bool) -> None:
    shapes, other = (TEACHER, STUDENT) if swapped else (STUDENT, TEACHER)
    small = other._replace(features=((3, 4, 4), (other.pooled, 2, 2)), preact=())
    method = built("simkd", dtype=torch.float32, config={"factor": factor}, student=shapes, teacher=small)
    student = output(shapes, 0, dtype=torch.float32)
    method(student, stopped(output(small, 1, dtype=torch.float32)), batch_of(), torch.tensor(0.0))
    wanted = method.eval().predict(student)
    again = SimKD.for_inference(method.config, method.state_dict(), shapes)
    assert again.size == (2, 2) and not again.training
    assert torch.equal(again.predict(student), wanted) and wanted.shape == (ROWS, CLASSES)
    with pytest.raises(InputError, match="projector takes"):
        SimKD.for_inference(method.config, method.state_dict(), shapes._replace(features=((9, 4, 4),)))


def test_simkd_gives_the_students_head_a_gradient_of_zero() -> None:
    method, student = built("simkd"), output(STUDENT, 0)
    total(method(student, stopped(output(TEACHER, 1)), batch_of(), torch.tensor(0.0))).backward()
    assert torch.equal(student.logits_BK.grad, torch.zeros_like(student.logits_BK))
    assert leaves(student)[4].grad is not None and setting_for("simkd").classifier is not None
