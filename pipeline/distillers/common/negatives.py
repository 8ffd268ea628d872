"""Negatives of contrastive methods as a pure function of (seed, step, sample), drawn on the device; their loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import InputError
from pipeline.views.counter import MASK, integer, philox

# Second key words of Philox: outside the numbers of pipeline.views.Stream, whose draws they must not repeat.
ORDER, START, PICK, RELATED = range(0x43524400, 0x43524404)


class Negatives(nn.Module):
    """For each row of a batch K samples of other classes.

    Without replacement where every class has K samples outside it, else with replacement (the published rule). CIFAR:
    16,384 of 49,500. A permutation per row would sort 50,000 keys for each of 64 rows. Here the step has ONE
    permutation of all samples, and each row reads it as a circle from a start of its own, over the samples of its own
    class: each row's set is uniform among the sets without repetition, only the rows of one batch are not independent.
    A row's draws depend on (seed, step, index) alone, hence not on the number of ranks.
    """

    order_N: Tensor
    label_N: Tensor
    sorted_N: Tensor
    count_K: Tensor
    first_K: Tensor

    def __init__(self, label_N: Tensor, K: int, seed: int) -> None:
        super().__init__()
        self.K, self.seed = K, seed & MASK
        count_K = torch.bincount(label_N)
        self.samples = label_N.numel()
        fewest = self.samples - int(count_K.max())
        if fewest == 0:
            raise InputError("negatives are samples of other classes: the training set has only one class")
        self.draw = self._distinct if fewest >= K else self._repeating
        self.window = min(self.samples, K + int(count_K.max()))
        tables = {
            "label_N": label_N.clone(),
            "order_N": torch.arange(self.samples, device=label_N.device),
            "sorted_N": torch.argsort(label_N, stable=True),
            "count_K": count_K,
            "first_K": count_K.cumsum(0) - count_K,
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, index_B: Tensor, label_B: Tensor, step: Tensor) -> Tensor:
        """int64 [B, K]: positions in the training set. step: 0-d int64, a count of steps."""
        return self.draw(index_B, label_B, step)

    def related(self, index_B: Tensor, label_B: Tensor, step: Tensor) -> Tensor:
        """int64 [B]: for each row a uniform sample of its own class, perhaps itself."""
        word_B, *_ = philox(index_B, 0, step, 0, self.seed, RELATED)
        return self.sorted_N[self.first_K[label_B] + integer(word_B, self.count_K[label_B])]

    def _distinct(self, index_B: Tensor, label_B: Tensor, step: Tensor) -> Tensor:
        high_N, low_N, *_ = philox(self.order_N, 0, step, 0, self.seed, ORDER)
        shuffled_N = torch.argsort((high_N << 31) | (low_N >> 1), stable=True)
        word_B, *_ = philox(index_B, 0, step, 0, self.seed, START)
        place_BW = integer(word_B, self.samples)[:, None] + self.order_N[: self.window]
        sample_BW = shuffled_N[place_BW % self.samples]
        other_BW = self.label_N[sample_BW] != label_B[:, None]
        # The first K of other classes move to the front; all the rest falls into column K, which is cut off.
        column_BW = (other_BW.cumsum(dim=1) - 1).clamp_max(self.K).masked_fill(~other_BW, self.K)
        return sample_BW.new_zeros(len(index_B), self.K + 1).scatter(1, column_BW, sample_BW)[:, : self.K]

    def _repeating(self, index_B: Tensor, label_B: Tensor, step: Tensor) -> Tensor:
        column_K = torch.arange(self.K, device=index_B.device)
        word_BK, *_ = philox(index_B[:, None], column_K, step, 0, self.seed, PICK)
        own_B1 = self.count_K[label_B][:, None]
        place_BK = integer(word_BK, self.samples - own_B1)
        behind_BK = place_BK >= self.first_K[label_B][:, None]
        return self.sorted_N[place_BK + own_B1 * behind_BK]


def nce_loss(score_BJ: Tensor, log_z: Tensor, noise: float, eps: float = 1e-7) -> Tensor:
    """Noise-contrastive estimation, a scalar: -mean_B [ln h_0 + sum over j > 0 of ln(1 - h_j)].

    score_BJ: similarity / temperature of the positive (column 0) and the negatives. h = o / (o + noise + eps) with
    o = exp(score) / Z, log_z = ln Z, noise = negatives / samples. As sigmoids of differences no exp can overflow; the
    published code leaves eps out of the numerator noise / (o + noise + eps), which is a constant.
    """
    margin_BJ = score_BJ - log_z - math.log(noise + eps)
    constant = (score_BJ.shape[1] - 1) * (math.log(noise) - math.log(noise + eps))
    found_B = F.logsigmoid(margin_BJ[:, 0]) + F.logsigmoid(-margin_BJ[:, 1:]).sum(dim=1)
    return -(found_B.mean() + constant)
