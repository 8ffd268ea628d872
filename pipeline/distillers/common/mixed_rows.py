"""Rows of a batch mixed among themselves: the sub-batch of HE-DA (arXiv 2311.14334)."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.contracts import InputError, Mix
from pipeline.utils.mixing import cutmix, mixup


def chosen_rows(outside_G: Tensor, seeds: int) -> Tensor:
    """int64 [M]: the first `seeds` rows, then all that are outside; the first ones can come twice."""
    first = torch.arange(min(seeds, len(outside_G)), device=outside_G.device)
    return torch.cat([first, outside_G.nonzero().squeeze(1)])


def permuted(row_M: Tensor, key_G: Tensor) -> Tensor:
    """The same rows by rising key of each."""
    return row_M[key_G[row_M].argsort(stable=True)]


def _mixup(image_MCHW: Tensor, partner_MCHW: Tensor, mix: Mix) -> Tensor:
    return mixup(image_MCHW, partner_MCHW, mix.weight)


def _cutmix(image_MCHW: Tensor, partner_MCHW: Tensor, mix: Mix) -> Tensor:
    box = getattr(mix, "box", None)
    if box is None:
        raise InputError("heda with augment=cutmix needs a loader that gives the box of a mixed stream; use mixup")
    return cutmix(image_MCHW, partner_MCHW, box)


MIXERS: dict[str, Callable[[Tensor, Tensor, Mix], Tensor]] = {"mixup": _mixup, "cutmix": _cutmix}
