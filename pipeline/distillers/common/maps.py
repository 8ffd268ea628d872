"""What methods on stage maps share: sizes brought together, rows of norm 1, maps before the last activation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import InputError, ModelOutput, Setting, Shapes

Maps = tuple[Tensor, ...]
Shape = tuple[int, int, int]


def pool_to(map_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling to height x width.

    Where the sizes divide, avg_pool2d gives the same numbers and has a deterministic backward on CUDA; the adaptive one
    has none.
    """
    down, across = map_BCHW.shape[-2], map_BCHW.shape[-1]
    if (down, across) == (height, width):
        return map_BCHW
    if down % height == 0 and across % width == 0:
        return F.avg_pool2d(map_BCHW, (down // height, across // width))
    return F.adaptive_avg_pool2d(map_BCHW, (height, width))


def max_pool_to(map_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Adaptive max pooling to height x width; as in `pool_to` the plain one where the sizes divide."""
    down, across = map_BCHW.shape[-2], map_BCHW.shape[-1]
    if (down, across) == (height, width):
        return map_BCHW
    if down % height == 0 and across % width == 0:
        return F.max_pool2d(map_BCHW, (down // height, across // width))
    return F.adaptive_max_pool2d(map_BCHW, (height, width))


def to_smaller(
    one_BCHW: Tensor, other_BCHW: Tensor, pool: Callable[[Tensor, int, int], Tensor] = pool_to
) -> tuple[Tensor, Tensor]:
    """Both maps at the size of the lower one (heights are compared, as in the published codes)."""
    if one_BCHW.shape[-2] > other_BCHW.shape[-2]:
        return pool(one_BCHW, *other_BCHW.shape[-2:]), other_BCHW
    return one_BCHW, pool(other_BCHW, *one_BCHW.shape[-2:])


def unit_rows(x_BD: Tensor) -> Tensor:
    """Rows of Euclidean norm 1; a row of zeros stays zero, with gradient zero (a plain division gives NaN)."""
    square_B1 = x_BD.square().sum(dim=-1, keepdim=True)
    empty_B1 = square_B1 == 0
    scale_B1 = torch.rsqrt(square_B1.masked_fill(empty_B1, 1.0)).masked_fill(empty_B1, 0.0)
    return x_BD * scale_B1


def teacher_shapes(setting: Setting | None, method: str) -> tuple[Setting, Shapes]:
    """The setting and its teacher's shapes. Raises InputError where the source of the teacher knows none."""
    if setting is None or setting.teacher is None:
        raise InputError(f"{method} needs the shapes of the teacher's outputs: use teacher.source=live")
    return setting, setting.teacher


def preact(output: ModelOutput) -> Maps:
    """Maps before the last activation; the maps themselves where the network has no such activation (MobileNetV2)."""
    return output.preact_features or output.features


def preact_shapes(shapes: Shapes) -> tuple[Shape, ...]:
    """Shapes of `preact`."""
    return shapes.preact or shapes.features


def activated(output: ModelOutput) -> Tensor:
    """The last map after its ReLU, B C H W: what the network pools.

    For most networks features[-1] itself; wrn's features are raw sums, so the ReLU of its pre-activation is taken.
    """
    return F.relu(output.preact_features[-1]) if output.preact_features else output.features[-1]
