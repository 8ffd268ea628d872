"""Energy of logits and its bands: EnergyKD, EnergyDKD, HE-DA. Kim, Ham, Lee, Jang and Kim 2023 (arXiv 2311.14334)."""

import torch
from torch import Tensor, nn


def energy(logits_BK: Tensor, T: float) -> Tensor:
    """B: -T * log sum_K exp(logits / T): low for what the teacher is sure of."""
    return -T * torch.logsumexp(logits_BK / T, dim=1)


def full_batches(rows: int, batch_size: int) -> int:
    """Rows in complete batches: the official pass skips the short last one. All rows where no batch is complete."""
    return rows // batch_size * batch_size or rows


class EnergyBands(nn.Module):
    """Two thresholds of the energy, found by `learn` and kept with the run; NaN until then."""

    low: Tensor
    high: Tensor

    def __init__(self, T: float, low_rate: float, high_rate: float, batch_size: int) -> None:
        """low_rate, high_rate: shares of the rows beyond the thresholds; batch_size: see full_batches (1: all rows)."""
        super().__init__()
        self.T, self.rates, self.batch_size = T, (low_rate, high_rate), batch_size
        self.register_buffer("low", torch.full((), torch.nan))
        self.register_buffer("high", torch.full((), torch.nan))

    def digest(self, logits_BK: Tensor) -> Tensor:
        """[B, 1]: the energies, which `learn` wants."""
        return energy(logits_BK, self.T)[:, None]

    def learn(self, energy_N1: Tensor) -> None:
        """Leaves int(N * rate) of the energies strictly outside on either side (but for equal ones)."""
        rows = full_batches(len(energy_N1), self.batch_size)
        energy_N = energy_N1[:rows, 0].sort().values
        below, above = (int(rows * rate) for rate in self.rates)
        self.low.copy_(energy_N[below])
        self.high.copy_(energy_N[rows - 1 - above])

    def outside(self, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
        """B, B: energy below the low threshold; above the high one."""
        energy_B = energy(logits_BK, self.T)
        return energy_B < self.low, energy_B > self.high

    def unlearned(self) -> Tensor:
        """0-d: 0, or NaN before `learn`; added to a loss, it keeps missing thresholds from passing unseen."""
        return 0 * (self.low + self.high)

    def choose(self, logits_BK: Tensor, low: float, mid: float, high: float) -> Tensor:
        """B: `low` below the low threshold, `high` above the high one, `mid` between; NaN before `learn`."""
        below_B, above_B = self.outside(logits_BK)
        mid_B = torch.full_like(logits_BK[:, 0], mid)
        return mid_B.masked_fill(below_B, low).masked_fill(above_B, high) + self.unlearned().to(logits_BK.dtype)
