"""VGG with batch normalisation for CIFAR (Simonyan and Zisserman, arXiv:1409.1556; vgg8 is RepDistiller's).

Keys as in RepDistiller's and mdistiller's vgg.py: block{0..4}.{3i,3i+1} (conv with bias, BN), classifier. Initial
weights: see `initialise`; classifier weight N(0, 0.01), bias 0, as there. Pools over the whole map; a fourth
max-pooling is done for images of height 64 only, as there. With a re-parameterised block (KDrefine's repvgg.py) each of
these pairs is one entry, the block: block{0..4}.{2i}.*, and no convolution has a bias in training form.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import conv_bn_layers, last_bns
from pipeline.models.common import global_mean, initialise, last_widths

WIDTHS = (64, 128, 256, 512, 512)
TALL = 64


def _block(in_channels: int, out_channels: int, convolutions: int, block: str | None) -> nn.Sequential:
    """conv, BN, ReLU, ..., conv, BN: without the last ReLU, which forward applies."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [*conv_bn_layers(block, in_channels, out_channels, 3, bias=True), nn.ReLU(inplace=True)]
        in_channels = out_channels
    return nn.Sequential(*layers[:-1])


class CifarVGG(nn.Module):
    """convolutions: how many each of the five blocks has; block: see `conv_bn`.

    features: ReLU of each block, before the pooling that follows (block0 counts as the stem); preact_features: the BN
    outputs, except for entry 0, which is features[0].
    """

    def __init__(self, *, convolutions: Sequence[int], num_classes: int, block: str | None = None) -> None:
        super().__init__()
        zero, one, two, three, four = convolutions
        self.block0 = _block(3, WIDTHS[0], zero, block)
        self.block1 = _block(WIDTHS[0], WIDTHS[1], one, block)
        self.block2 = _block(WIDTHS[1], WIDTHS[2], two, block)
        self.block3 = _block(WIDTHS[2], WIDTHS[3], three, block)
        self.block4 = _block(WIDTHS[3], WIDTHS[4], four, block)
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        initialise(self)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the five blocks."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[block0, ..., block4]."""
        return list(self._blocks())

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last BN of block1 to block4; [] with a block of several branches."""
        return last_bns(self._blocks()[1:])

    def _blocks(self) -> tuple[nn.Sequential, ...]:
        return self.block0, self.block1, self.block2, self.block3, self.block4

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 1, 2, 4, 8, 8 (16 for images of height 64)."""
        pool_after = (True, True, True, image_BCHW.shape[2] == TALL, False)
        x_BCHW = image_BCHW
        kept: list[tuple[Tensor, Tensor]] = []
        for block, pool in zip(self._blocks(), pool_after, strict=True):
            preact_BCHW = block(x_BCHW)
            x_BCHW = F.relu(preact_BCHW)
            if features:
                kept.append((x_BCHW, preact_BCHW if kept else x_BCHW))
            x_BCHW = F.max_pool2d(x_BCHW, 2) if pool else x_BCHW
        pooled_BD = global_mean(x_BCHW)
        return ModelOutput(
            self.classifier(pooled_BD), pooled_BD, tuple(post for post, _ in kept), tuple(preact for _, preact in kept)
        )


for _name, _convolutions in {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}.items():
    MODELS.register(_name)(partial(CifarVGG, convolutions=_convolutions))
MODELS.register("repvgg8")(partial(CifarVGG, convolutions=(1, 1, 1, 1, 1), block="ambb"))
