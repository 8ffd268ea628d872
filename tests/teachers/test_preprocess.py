"""A teacher's own mean, std and resolution, from the student's view."""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import Batch, ModelOutput, Signal
from pipeline.teachers.live import LiveTeacher
from pipeline.teachers.preprocess import Preprocess

CIFAR = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def pixels() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalised(raw_BCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (raw_BCHW - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_other_mean_and_std() -> None:
    prepare = Preprocess(*CIFAR, *CLIP, None)
    torch.testing.assert_close(prepare(normalised(pixels(), *CIFAR)), normalised(pixels(), *CLIP), rtol=0, atol=2e-6)


def test_nothing_differs() -> None:
    image = pixels()
    for size in (None, 32):
        assert Preprocess(*CIFAR, *CIFAR, size)(image) is image


def test_other_resolution_keeps_layout_and_order() -> None:
    image = normalised(pixels(), *CIFAR).contiguous(memory_format=torch.channels_last)
    for mode in ("bilinear", "bicubic"):
        got = Preprocess(*CIFAR, *CLIP, 48, mode)(image)
        raw = F.interpolate(pixels(), (48, 48), mode=mode, antialias=True, align_corners=False)
        assert got.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(got, normalised(raw, *CLIP), rtol=0, atol=1e-5)
    half = Preprocess(*CIFAR, *CIFAR, 16)(image)
    assert half.shape == (4, 3, 16, 16)


class Echo(nn.Module):
    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        return ModelOutput(image_BCHW.mean((2, 3)), image_BCHW.flatten(1))


def test_the_teacher_sees_its_own_pixels() -> None:
    image = normalised(pixels(), *CIFAR)
    label = torch.zeros(4, dtype=torch.long)
    teacher = LiveTeacher(
        Echo, needs=Signal.LOGITS, autocast=contextlib.nullcontext, prepare=Preprocess(*CIFAR, *CLIP, 24)
    )
    output = teacher(Batch(image_BCHW=image, label_B=label, index_B=label))
    assert output.pooled_BD.shape == (4, 3 * 24 * 24)
    small = F.interpolate(pixels(), (24, 24), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(output.logits_BK, normalised(small, *CLIP).mean((2, 3)), rtol=0, atol=1e-5)
