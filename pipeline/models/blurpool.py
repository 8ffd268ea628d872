"""Antialiased downsampling (Zhang 2019, arXiv:1904.11486) as ffcv-imagenet does it: a blur before strided convolutions.

A hook, not a layer: parameters, buffers and state-dict keys stay those of the network, so that weights with and without
it load into each other (they compute different things).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import InputError
from pipeline.models.blocks.folding import Block

FEWEST = 16  # input channels: ffcv-imagenet leaves the convolution on the image itself alone


def blurred(x_BCHW: Tensor) -> Tensor:
    """Each channel filtered with [1 2 1] x [1 2 1] / 16, stride 1, zeros around the map.

    As a depthwise convolution: 0.6 to 0.7 of the time of two average poolings of 2 x 2, which compute the same (forward
    and backward, 64 x 56 x 56 and 256 x 28 x 28, batch 16, channels_last, one Xeon core, torch 2.13). The filter is
    made where the map is: a buffer would be one more thing to copy, average and keep.
    """
    channels = x_BCHW.shape[1]
    tap_3 = 2 - (torch.arange(3, device=x_BCHW.device, dtype=x_BCHW.dtype) - 1).abs()
    filter_33 = tap_3[:, None] * tap_3 / 16
    return F.conv2d(x_BCHW, filter_33.expand(channels, 1, 3, 3), padding=1, groups=channels)


def _blur_input(convolution: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
    return (blurred(args[0]),)


def add_blurpool(network: nn.Module, name: str) -> None:
    """Blurs the input of every convolution with a stride and FEWEST input channels or more, in place.

    Raises InputError where there is none, and for re-parameterised blocks: a blurred branch could not be folded.
    """
    if any(isinstance(module, Block) for module in network.modules()):
        raise InputError(f"model {name}: blurpool=true needs plain convolutions (student.block=plain)")
    found = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.in_channels >= FEWEST
    ]
    if not found:
        raise InputError(f"model {name} has no strided convolution to blur: use student.args.blurpool=false")
    for convolution in found:
        convolution.register_forward_pre_hook(_blur_input)
