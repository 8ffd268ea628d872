"""ResNet18 and ResNet50 for CIFAR: the ImageNet networks (arXiv:1512.03385) with a 3x3 stem of stride 1, no pooling.

Keys as in RepDistiller's and mdistiller's resnetv2.py: conv1, bn1, layer{1..4}.i.{conv1,bn1,...,shortcut.{0,1}} and
linear. Initial weights: see `initialise`; linear keeps torch's default, as there. Pools over the whole map. Their
get_stage_channels answers 256, 512, 1024, 2048 whatever the depth and forgets the stem; ours tells the real ones.

With a re-parameterised block the keys below each conv are the block's, the BNs have none, the projection stays plain.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import conv_bn
from pipeline.models.common import global_mean, initialise, last_widths
from pipeline.models.residual import BasicBlock, Bottleneck, Form, ending_bns, four_stages, run_stages

STEM = 64


class CifarBottleneckResNet(nn.Module):
    """kind: residual block; counts: how many in each of the four stages; block: see `conv_bn`.

    features: ReLU of the stem and of each stage; preact_features: the stage sums before it (relu(preact) == feature).
    """

    def __init__(
        self,
        *,
        kind: type[BasicBlock] | type[Bottleneck],
        counts: Sequence[int],
        num_classes: int,
        block: str | None = None,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(block, 3, STEM, 3)
        form = Form(projection="shortcut", block=block)
        self.layer1, self.layer2, self.layer3, self.layer4 = four_stages(kind, STEM, STEM, counts, form)
        self.linear = nn.Linear(8 * STEM * kind.expansion, num_classes)
        initialise(self)

    @property
    def classifier(self) -> nn.Linear:
        """linear."""
        return self.linear

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the stem and of the four stages."""
        return last_widths(self.stages())

    def stages(self) -> list[nn.Module]:
        """[conv1 + bn1, layer1, ..., layer4]."""
        return [nn.Sequential(self.conv1, self.bn1), self.layer1, self.layer2, self.layer3, self.layer4]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """See `ending_bns`."""
        return ending_bns(self.stages()[1:])

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: [B, C_i, H_i, W_i] at strides 1, 1, 2, 4, 8."""
        stem_BCHW = F.relu(self.bn1(self.conv1(image_BCHW)), inplace=True)
        posts, preacts = run_stages((self.layer1, self.layer2, self.layer3, self.layer4), stem_BCHW)
        pooled_BD = global_mean(posts[-1])
        output = ModelOutput(self.linear(pooled_BD), pooled_BD)
        if not features:
            return output
        return output._replace(features=(stem_BCHW, *posts), preact_features=(stem_BCHW, *preacts))


MODELS.register("cifar/resnet18", "resnet18_cifar")(
    partial(CifarBottleneckResNet, kind=BasicBlock, counts=(2, 2, 2, 2))
)
MODELS.register("cifar/resnet50", "resnet50_cifar")(
    partial(CifarBottleneckResNet, kind=Bottleneck, counts=(3, 4, 6, 3))
)
