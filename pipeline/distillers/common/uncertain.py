"""The samples that a teacher is least sure of (CutMixPick, Wang et al. 2022, arXiv 2012.02909)."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from pipeline.utils.mixing import entropy


class Chosen(NamedTuple):
    """Ones for the samples that count and zeros for the rest: of this rank and of the global batch."""

    own_B: Tensor
    all_G: Tensor


def most_uncertain(teacher_BK: Tensor, count: int, gather: Callable[[Tensor], Tensor]) -> Chosen | None:
    """The `count` samples of the global batch whose entropy is largest, and their equals; None where it has no more."""
    entropy_B = entropy(teacher_BK)
    entropy_G = gather(entropy_B)
    if len(entropy_G) <= count:
        return None
    least = entropy_G.topk(count).values[-1]
    return Chosen((entropy_B >= least).to(entropy_B.dtype), (entropy_G >= least).to(entropy_G.dtype))
