"""ResNets for ImageNet (He et al., arXiv:1512.03385), ResNeXt (arXiv:1611.05431) and wide ones (arXiv:1605.07146).

Keys as torchvision's, mdistiller's and SimKD's: conv1, bn1, layer{1..4}.i.{conv1,bn1,...,downsample.{0,1}}, fc;
torchvision's IMAGENET1K_V1 files load. resnet10x2, 18x2 and 34x2 are SimKD's: basic blocks of twice the channels after
a stem of 64. Initial weights: see `initialise`; fc keeps torch's default, as there (no zero-initialised residuals).
Pools over the whole map, at 224 pixels mdistiller's AvgPool2d(7). mdistiller's get_stage_channels answers 256, 512,
1024, 2048 whatever the depth, and its get_bn_before_relu forgets layer1; ours tell the real ones.

With a re-parameterised block the keys below each conv are the block's, the BNs have none, the projection stays plain.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models import MODELS
from pipeline.models.blocks import conv_bn
from pipeline.models.common import global_mean, initialise, last_widths
from pipeline.models.residual import (
    REFERENCE_WIDTH,
    BasicBlock,
    Bottleneck,
    Form,
    ending_bns,
    four_stages,
    run_stages,
)

STEM = 64
StemFeature = Literal["before_pool", "after_pool"]


class ImageNetResNet(nn.Module):
    """kind: residual block; counts: how many in each of the four stages; base: base channels of the first stage.

    groups, width_per_group: of the bottleneck's 3x3 convolution; block: see `conv_bn`. stem_feature: features[0] is the
    activated stem at stride 2 (mdistiller) or its max-pooling at stride 4 (SimKD); nothing else depends on it.
    features[1:]: ReLU of each stage; preact_features: the stage sums before it (relu(preact) == feature).
    """

    def __init__(
        self,
        *,
        kind: type[BasicBlock] | type[Bottleneck],
        counts: Sequence[int],
        num_classes: int,
        base: int = STEM,
        groups: int = 1,
        width_per_group: int = REFERENCE_WIDTH,
        stem_feature: StemFeature = "before_pool",
        block: str | None = None,
    ) -> None:
        super().__init__()
        self.stem_feature = stem_feature
        self.conv1, self.bn1 = conv_bn(block, 3, STEM, 7, 2)
        form = Form(projection="downsample", groups=groups, width_per_group=width_per_group, block=block)
        self.layer1, self.layer2, self.layer3, self.layer4 = four_stages(kind, STEM, base, counts, form)
        self.fc = nn.Linear(8 * base * kind.expansion, num_classes)
        initialise(self)

    @property
    def classifier(self) -> nn.Linear:
        """fc."""
        return self.fc

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
        """features: [B, C_i, H_i, W_i] at strides 2 (or 4, see stem_feature), 4, 8, 16, 32."""
        stem_BCHW = F.relu(self.bn1(self.conv1(image_BCHW)), inplace=True)
        small_BCHW = F.max_pool2d(stem_BCHW, 3, 2, padding=1)
        posts, preacts = run_stages((self.layer1, self.layer2, self.layer3, self.layer4), small_BCHW)
        pooled_BD = global_mean(posts[-1])
        output = ModelOutput(self.fc(pooled_BD), pooled_BD)
        if not features:
            return output
        first_BCHW = stem_BCHW if self.stem_feature == "before_pool" else small_BCHW
        return output._replace(features=(first_BCHW, *posts), preact_features=(first_BCHW, *preacts))


BASIC = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
DEEP = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
for _depth in (18, 34):
    _build = partial(ImageNetResNet, kind=BasicBlock, counts=BASIC[_depth])
    MODELS.register(f"imagenet/resnet{_depth}", f"resnet{_depth}_imagenet")(_build)
for _depth, _counts in DEEP.items():
    _build = partial(ImageNetResNet, kind=Bottleneck, counts=_counts)
    MODELS.register(f"imagenet/resnet{_depth}", f"resnet{_depth}_imagenet")(_build)
for _depth, _counts in BASIC.items():
    MODELS.register(f"resnet{_depth}x2")(partial(ImageNetResNet, kind=BasicBlock, counts=_counts, base=2 * STEM))
_fifty = partial(ImageNetResNet, kind=Bottleneck, counts=DEEP[50])
MODELS.register("resnext50_32x4d", "resnext50")(partial(_fifty, groups=32, width_per_group=4))
MODELS.register("wrn_50_2", "wrn50_2", "wide_resnet50_2")(partial(_fifty, width_per_group=128))
