"""Mixing of images against loops over pixels."""

import math

import pytest
import torch

from pipeline.utils.mixing import cutmix, cutout, entropy, inside, mixup, most_uncertain, own_share

BOXES = [(0, 0, 4, 6), (1, 2, 2, 3), (3, 5, 1, 1), (2, 2, 0, 3)]


def images() -> tuple[torch.Tensor, torch.Tensor]:
    own, partner = torch.randn(2, 2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return own, partner


@pytest.mark.parametrize("box", BOXES)
def test_boxes_are_pixels(box: tuple[int, int, int, int]) -> None:
    (top, left, height, width), (own, partner) = box, images()
    mixed, cut = cutmix(own, partner, torch.tensor(box)), cutout(own, torch.tensor(box))
    for y in range(4):
        for x in range(6):
            within = top <= y < top + height and left <= x < left + width
            assert inside(torch.tensor(box), 4, 6)[y, x] == within
            assert torch.equal(mixed[:, :, y, x], (partner if within else own)[:, :, y, x])
            assert torch.equal(cut[:, :, y, x], own[:, :, y, x] * (not within))
    assert own_share(torch.tensor(box), 4, 6).item() == pytest.approx(1 - height * width / 24, rel=1e-15)


def test_mixup_is_the_weighted_mean() -> None:
    own, partner = images()
    for weight in (0.0, 0.3, 1.0):
        assert torch.allclose(mixup(own, partner, torch.tensor(weight)), weight * own + (1 - weight) * partner)
    assert torch.equal(mixup(own, partner, 1.0), own) and mixup(own, partner, torch.tensor(0.5)).dtype == own.dtype


def test_entropy_and_the_most_uncertain_rows() -> None:
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0], [1e4, -1e4]])
    p = math.exp(1) / (1 + math.exp(1))
    wanted = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert entropy(logits)[[0, 2, 3]].tolist() == pytest.approx([math.log(2), wanted, 0.0], rel=1e-6)
    assert most_uncertain(entropy(logits), 2).tolist() == [2, 0]
    assert most_uncertain(entropy(logits), 9).tolist() == [3, 1, 2, 0]


def test_mixing_keeps_the_order_in_memory() -> None:
    box = torch.tensor([0, 1, 2, 2])
    for memory in (torch.channels_last, torch.contiguous_format):
        own, partner = (x.contiguous(memory_format=memory) for x in images())
        for mixed in (mixup(own, partner, torch.tensor(0.3)), cutmix(own, partner, box), cutout(own, box)):
            assert mixed.is_contiguous(memory_format=memory) and mixed.dtype == own.dtype


def test_shares_of_several_boxes_at_once() -> None:
    boxes = torch.tensor(BOXES)
    assert own_share(boxes.T, 4, 6).tolist() == [own_share(box, 4, 6).item() for box in boxes]
