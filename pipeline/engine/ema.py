"""Exponential moving average of a network's weights."""

import torch
from torch import Tensor, nn


class Ema:
    """average <- decay * average + (1 - decay) * weight after every update. Buffers (BN statistics) are not averaged.

    torch's AveragedModel keeps its counter on the device and reads it each step, which makes the host wait.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = dict(network.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the present weights."""
        live = [p.detach() for p in self.live.values()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Averages by parameter name."""
        return self.average

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave."""
        for name, average in self.average.items():
            average.copy_(state[name])
