"""A temperature for each sample, which CTKD's second form learns, and the distance that takes it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.distillers.common.layers import BatchNorm

SHOWN = 100  # classes that the network sees: all of CIFAR-100
HIDDEN = 256
FLOOR = 1e-7  # added to the teacher's probabilities by the authors' code


def instance_temperature_loss(student_BK: Tensor, teacher_BK: Tensor, T_B: Tensor) -> Tensor:
    """mean_B T^2 * sum_K q (ln q - ln p), a scalar, differentiable by T_B; q is softmax(teacher / T) + 1e-7."""
    T_B1 = T_B[:, None]
    log_p_BK, q_BK = F.log_softmax(student_BK / T_B1, dim=1), F.softmax(teacher_BK / T_B1, dim=1) + FLOOR
    return (T_B.square() * (q_BK * (q_BK.log() - log_p_BK)).sum(dim=1)).mean()


class InstanceTemperature(nn.Module):
    """Two layers of 1x1 convolutions over both networks' probabilities of the teacher's most probable classes.

    The second layer starts at 0: sigmoid of its output is .5 for every sample. No gradient goes to the student.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.shown = min(classes, SHOWN)
        last = nn.Conv2d(HIDDEN, 1, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(nn.Conv2d(2 * self.shown, HIDDEN, 1), BatchNorm(HIDDEN), nn.ReLU(), last)

    def forward(self, student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
        """One number for each sample, [B]."""
        q_BS, class_BS = F.softmax(teacher_BK.detach(), dim=1).topk(self.shown, dim=1)
        p_BS = F.softmax(student_BK.detach(), dim=1).gather(1, class_BS)
        return self.layers(torch.cat([q_BS, p_BS], dim=1)[:, :, None, None]).flatten()
