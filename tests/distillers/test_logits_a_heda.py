"""HE-DA: which rows it takes, how it mixes them, and that ranks change nothing; gradients of rows without spread."""

from typing import Any, Literal, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import Batch, BatchInfo, InputError, ModelOutput, Setting, Shapes, Stream, View
from pipeline.distillers.common.energy import energy
from pipeline.distillers.common.mixed_rows import chosen_rows, permuted
from pipeline.distillers.dist import correlation
from pipeline.distillers.energykd import kl_rows
from pipeline.distillers.heda import HEDA
from pipeline.distillers.kdrefine import four_times_normalised
from pipeline.distillers.lskd import standardise

ROWS, CLASSES = 9, 5
OUTLYING = [1, 4, 5, 7]  # by the thresholds of `method`
WEIGHT = torch.tensor(0.25, dtype=torch.float64)


class BoxedMix(NamedTuple):
    """A mix with its box."""

    weight: Tensor
    partner_label_B: Tensor
    box: Tensor


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGE = normal(ROWS, 3, 4, 4, seed=0)
STREAM = normal(ROWS, 3, 4, 4, seed=1)
INDEX = torch.tensor([31, 7, 12, 90, 4, 55, 8, 21, 60])
TEACHER = normal(3 * 16, CLASSES, seed=2)
STUDENT = normal(3 * 16, CLASSES, seed=3)


def seen_by(weight: Tensor, image_BCHW: Tensor) -> ModelOutput:
    logits_BK = image_BCHW.flatten(1) @ weight
    return ModelOutput(logits_BK, logits_BK)


def method(
    variant: str = "energykd", augment: Literal["mixup", "cutmix"] = "mixup", outlying: list[int] | None = None
) -> HEDA:
    """With thresholds that leave exactly `outlying` above the high one."""
    found = HEDA(
        HEDA.Config(augment=augment), Setting(student=Shapes(CLASSES, 4, ()), batch_size=4, seed=3), variant
    ).double()
    found.bands.low.fill_(-1e9)
    found.bands.high.fill_(0.0)
    rows = OUTLYING if outlying is None else outlying
    outside = torch.zeros(ROWS, dtype=torch.float64)
    outside[rows] = 1

    def by_index(teacher: ModelOutput) -> Tensor:
        whole = seen_by(TEACHER, IMAGE).logits_BK
        at = (teacher.logits_BK[:, None] - whole).abs().sum(dim=2).argmin(dim=1)
        return outside[at]

    found._outside = by_index  # type: ignore[method-assign]
    return found


def batch_of(start: int = 0, stop: int = ROWS, *, view: int = 2, boxed: bool = True) -> Batch:
    mix: Any = BoxedMix(WEIGHT, INDEX[start:stop], torch.tensor([1, 0, 2, 3]))
    if not boxed:
        mix = type("Plain", (), {"weight": WEIGHT})
    part = slice(start, stop)
    return Batch(
        image_BCHW=IMAGE[part], label_B=INDEX[part] % CLASSES, index_B=INDEX[part], info=BatchInfo(view=view),
        streams={"mixed": STREAM[part]}, mixes={"mixed": mix},
    )  # fmt: skip


def sub_batch(heda: HEDA, batch: Batch) -> Batch:
    (found,) = heda.extra_batches(batch, seen_by(TEACHER, batch.image_BCHW))
    return found


def terms_of(heda: HEDA, batch: Batch, sub: Batch) -> dict[str, Tensor]:
    student, teacher = (seen_by(w, batch.image_BCHW) for w in (STUDENT, TEACHER))
    view = View(seen_by(STUDENT, sub.image_BCHW), seen_by(TEACHER, sub.image_BCHW), sub)
    return heda(student, teacher, batch, torch.zeros(()), view)


def partners_in(sub: Batch, rows: list[int]) -> list[int]:
    """Which of `rows` each mixup image was mixed with."""
    found = []
    for image_CHW, row in zip(sub.image_BCHW, rows, strict=True):
        partner_CHW = (image_CHW - WEIGHT * IMAGE[row]) / (1 - WEIGHT)
        distance = (IMAGE[rows] - partner_CHW).abs().amax(dim=(1, 2, 3))
        assert distance.min() < 1e-12
        found.append(rows[int(distance.argmin())])
    return found


def test_streams_follow_the_kind_of_mixing() -> None:
    assert HEDA(HEDA.Config()).streams == {"mixed": Stream(kind="cutmix", alpha=1.0)}
    assert HEDA(HEDA.Config(augment="mixup")).streams == {"mixed": Stream(kind="mixup", alpha=0.2)}


def test_rows_outside_follow_the_first_two() -> None:
    outside = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert chosen_rows(outside, 2).tolist() == [0, 1, 1, 3]
    assert chosen_rows(outside, 0).tolist() == [1, 3]
    assert permuted(torch.tensor([5, 1, 3]), torch.tensor([9, 7, 9, 2, 9, 7])).tolist() == [3, 5, 1]


def test_energy_decides_what_is_outside() -> None:
    heda = HEDA(HEDA.Config(low_rate=0.0, high_rate=0.5)).double()
    teacher = seen_by(TEACHER, IMAGE)
    heda.learn(heda.digest(teacher.logits_BK), INDEX)
    by_energy = energy(teacher.logits_BK, 4.0).argsort().tolist()
    assert sorted(heda._outside(teacher).nonzero().squeeze(1).tolist()) == sorted(by_energy[-4:])


@pytest.mark.parametrize(("variant", "rows"), [("energykd", [0, 1, *OUTLYING]), ("paper", OUTLYING)])
def test_chosen_rows_are_mixed_among_themselves(variant: str, rows: list[int]) -> None:
    sub = sub_batch(method(variant), batch_of())
    assert sub.index_B.tolist() == INDEX[rows].tolist()
    partners = partners_in(sub, rows)
    assert sorted(partners) == sorted(rows)
    assert torch.equal(sub.image_BCHW, sub_batch(method(variant), batch_of()).image_BCHW)
    others = [partners_in(sub_batch(method(variant), batch_of(view=v)), rows) for v in range(3, 9)]
    assert len({tuple(found) for found in [partners, *others]}) > 3


def test_cutmix_pastes_the_partner_into_the_box() -> None:
    rows = [0, 1, *OUTLYING]
    partners = partners_in(sub_batch(method(), batch_of()), rows)
    found = sub_batch(method(augment="cutmix"), batch_of()).image_BCHW
    wanted = IMAGE[rows].clone()
    wanted[:, :, 1:3, 0:3] = IMAGE[partners][:, :, 1:3, 0:3]
    assert torch.equal(found, wanted)
    with pytest.raises(InputError, match="box of a mixed stream"):
        sub_batch(method(augment="cutmix"), batch_of(boxed=False))


def test_views_takes_the_rows_of_the_stream() -> None:
    rows = [0, 1, *OUTLYING]
    assert torch.equal(sub_batch(method("views"), batch_of()).image_BCHW, STREAM[rows])


def test_mixed_images_are_distilled_without_labels() -> None:
    heda, batch = method(), batch_of()
    sub = sub_batch(heda, batch)
    terms = terms_of(heda, batch, sub)
    student, teacher = (seen_by(w, sub.image_BCHW).logits_BK for w in (STUDENT, TEACHER))
    kl = kl_rows(student, teacher, 4.0)
    assert torch.allclose(terms["aug"], 0.9 * 16 * kl.mean(), rtol=1e-12)
    labels = seen_by(STUDENT, IMAGE).logits_BK, batch.label_B
    assert torch.allclose(terms["ce"], 0.1 * F.cross_entropy(*labels), rtol=1e-12)


def test_nothing_outside_costs_nothing_in_the_paper() -> None:
    heda, batch = method("paper", outlying=[]), batch_of()
    sub = sub_batch(heda, batch)
    assert len(sub.index_B) == 2
    assert terms_of(heda, batch, sub)["aug"] == 0


@pytest.mark.parametrize("variant", list(HEDA.variants))
@pytest.mark.parametrize("spans", [[(0, 5), (5, 9)], [(0, 1), (1, 3), (3, 9)], [(0, 2), (2, 4), (4, 9)]])
def test_ranks_change_nothing(variant: str, spans: list[tuple[int, int]]) -> None:
    from test_logits_a import by_ranks

    def part(start: int, stop: int) -> tuple[dict[str, Tensor], Batch, int]:
        batch = batch_of(start, stop)
        sub = sub_batch(heda, batch)
        return terms_of(heda, batch, sub), sub, stop - start

    heda = method(variant)
    whole_terms, whole, _ = part(0, ROWS)
    ranks = by_ranks(heda, part, spans)
    assert all(len(sub.index_B) > 0 for _, sub, _ in ranks)
    for name, wanted in whole_terms.items():
        found = sum(terms[name] * rows / ROWS for terms, _, rows in ranks)
        assert torch.allclose(torch.as_tensor(found), wanted, rtol=1e-12), name
    images = torch.cat([sub.image_BCHW for _, sub, _ in ranks])
    distance = (whole.image_BCHW[:, None] - images).abs().amax(dim=(2, 3, 4)).amin(dim=1)
    assert distance.max() < 1e-12


def test_rows_without_spread_have_no_gradient() -> None:
    z = torch.zeros(2, 7, dtype=torch.float64, requires_grad=True)
    other = normal(2, 7, seed=4)
    uniform = F.softmax(z, dim=1)
    for value in (standardise(z), four_times_normalised(z), correlation(uniform, F.softmax(other, 1))):
        (gradient,) = torch.autograd.grad((value * normal(*value.shape, seed=5)).sum(), z)
        assert torch.equal(gradient, torch.zeros_like(z))
