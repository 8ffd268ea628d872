"""MobileNet for ImageNet (Howard et al., arXiv:1704.04861, table 1), as mdistiller has it.

Keys as in mdistiller's mobilenetv1.py: model.0.{0,1}, model.{1..13}.{0,1,3,4}, fc. (R2KD and MLLD call the same network
MobileNetV2.) Initial weights: torch's defaults, as there. Pools over the whole map, at 224 pixels their AvgPool2d(7).
"""

from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import last_bns
from pipeline.models.common import global_mean, last_widths

STEM = 32
# Channels and stride of model.1, ..., model.13.
LAYERS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
CUTS = (0, 4, 6, 12, 14)  # a feature ends before the next layer of stride 2, from stride 4 on


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class MobileNetV1(nn.Module):
    """features: ReLU of model.3, model.5, model.11 and model.13; preact_features: their BN outputs.

    As published there is no entry for the stem: features[0] is at stride 4, and preact_features[0] is not features[0].
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Sequential(*_convolution(3, STEM, 3, 2)))
        channels = STEM
        for width, stride in LAYERS:
            depthwise = _convolution(channels, channels, 3, stride, groups=channels)
            self.model.append(nn.Sequential(*depthwise, *_convolution(channels, width, 1)))
            channels = width
        self.fc = nn.Linear(channels, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        """fc."""
        return self.fc

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the four features."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[model[:4], model[4:6], model[6:12], model[12:]]."""
        return [self.model[start:end] for start, end in pairwise(CUTS)]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last BN of model.3, model.5, model.11 and model.13: one per entry, since none is a stem's."""
        return last_bns(self._without_relu(end - 1) for end in CUTS[1:])

    def _without_relu(self, layer: int) -> nn.Sequential:
        return cast(nn.Sequential, cast(nn.Sequential, self.model[layer])[:-1])

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 4, 8, 16, 32."""
        x_BCHW = image_BCHW
        kept = []
        for start, end in pairwise(CUTS):
            preact_BCHW = self._without_relu(end - 1)(self.model[start : end - 1](x_BCHW))
            x_BCHW = F.relu(preact_BCHW)
            kept.append((x_BCHW, preact_BCHW))
        pooled_BD = global_mean(x_BCHW)
        output = ModelOutput(self.fc(pooled_BD), pooled_BD)
        if not features:
            return output
        return output._replace(
            features=tuple(post for post, _ in kept), preact_features=tuple(preact for _, preact in kept)
        )


MODELS.register("mobilenetv1", "mobilenetv1_imagenet", "mv1")(MobileNetV1)
