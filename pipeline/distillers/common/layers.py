"""Layers that methods own: batch norm that bears one value, the convolution between two shapes, the teacher's head."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import InputError, Setting


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d that takes running statistics where a training batch holds one value per channel.

    nn.BatchNorm2d refuses such a batch: one row of pooled vectors, which a rank may get of a short last batch.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def conv_between(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Module:
    """Convolution (with bias) from maps of shape `student` (C, H, W) to shape `teacher`, chosen by heights.

    The rule of FitNet's regressor in RepDistiller and mdistiller. Raises InputError where it has no case.
    """
    (c_in, s, _), (c_out, t, _) = student, teacher
    if s == 2 * t:
        return nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
    if 2 * s == t:
        return nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)
    if s >= t:
        return nn.Conv2d(c_in, c_out, 1 + s - t)
    raise InputError(f"no convolution of the published regressors leads from maps of height {s} to height {t}")


def fits_one_size(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> bool:
    """Whether `conv_between` takes off a number of pixels, which is right for maps of these sizes only."""
    return student[1] > teacher[1] and student[1] != 2 * teacher[1]


def frozen_classifier(setting: Setting, method: str) -> nn.Linear:
    """A copy of the teacher's last layer that does not train. Raises InputError where the source gives no weights."""
    if setting.classifier is None:
        raise InputError(f"{method} needs the teacher's classifier: use teacher.source=live")
    layer = copy.deepcopy(setting.classifier)
    layer.requires_grad_(False)
    return layer
