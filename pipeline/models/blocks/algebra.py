"""Convolutions, batch norms and poolings in a row as one k x k convolution (Ding et al., arXiv:2103.13425, section 3).

Everything is float64: a fold adds and scales a few thousand numbers, and a float32 network may lose no digit by it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Kernel(NamedTuple):
    """A convolution in float64: weight_OIHW [out, in / groups, height, width], bias_O."""

    weight_OIHW: Tensor
    bias_O: Tensor


def kernel_of(weight_OIHW: Tensor) -> Kernel:
    """A convolution without bias."""
    return Kernel(weight_OIHW.double(), weight_OIHW.new_zeros(weight_OIHW.shape[0], dtype=torch.float64))


def identity_weight(channels: int, groups: int, like: Tensor) -> Tensor:
    """weight_OI11 of the 1x1 convolution that changes nothing, in the dtype and on the device of `like`."""
    eye = torch.eye(channels // groups, dtype=like.dtype, device=like.device)
    return eye.repeat(groups, 1)[:, :, None, None]


def then_norm(kernel: Kernel, norm: nn.BatchNorm2d) -> Kernel:
    """Followed by a batch norm in eval mode: W -> g W, b -> beta + g (b - mean), with g = gamma / sqrt(var + eps)."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale_O = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias_O = norm.bias.double() + scale_O * (kernel.bias_O - norm.running_mean.double())
    return Kernel(kernel.weight_OIHW * scale_O[:, None, None, None], bias_O)


def then_average(pointwise: Kernel, size: int) -> Kernel:
    """A 1x1 convolution followed by the mean over size x size: its weight / size^2 at every place."""
    return Kernel(pointwise.weight_OIHW.expand(-1, -1, size, size) / size**2, pointwise.bias_O)


def then_conv(pointwise: Kernel, second: Kernel, groups: int) -> Kernel:
    """A 1x1 convolution followed by a k x k one of the same groups, if what pads the latter is the former's bias."""
    first_GMI = pointwise.weight_OIHW.unflatten(0, (groups, -1))[..., 0, 0]
    second_GOMHW = second.weight_OIHW.unflatten(0, (groups, -1))
    weight_GOIHW = torch.einsum("gomhw,gmi->goihw", second_GOMHW, first_GMI)
    bias_GO = torch.einsum("gomhw,gm->go", second_GOMHW, pointwise.bias_O.unflatten(0, (groups, -1)))
    return Kernel(weight_GOIHW.flatten(0, 1), bias_GO.flatten() + second.bias_O)


def margins(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Zeros (left, right, top, bottom) around a height x width kernel in a size x size one; the centre is size // 2."""
    left, top = size // 2 - width // 2, size // 2 - height // 2
    return left, size - width - left, top, size - height - top


def embed(kernel: Kernel, size: int) -> Kernel:
    """The same map as a size x size kernel."""
    height, width = kernel.weight_OIHW.shape[2:]
    return Kernel(F.pad(kernel.weight_OIHW, margins(height, width, size)), kernel.bias_O)


def total(*kernels: Kernel) -> Kernel:
    """The sum of convolutions of one size."""
    weights_OIHW, biases_O = zip(*kernels, strict=True)
    return Kernel(torch.stack(weights_OIHW).sum(0), torch.stack(biases_O).sum(0))
