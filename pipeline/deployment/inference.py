"""A network as it is served: images in, logits out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.contracts import ModelOutput


class Inference(nn.Module):
    """network, then `predict` on its output (its logits, unless a method says otherwise); eval mode, no gradients."""

    def __init__(
        self,
        network: nn.Module,
        predict: Callable[[ModelOutput], Tensor] | None = None,
        features: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.predict = predict
        self.features = features
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """image [B, 3, H, W], normalised -> logits [B, K]."""
        output: ModelOutput = self.network(image, features=self.features)
        return output.logits_BK if self.predict is None else self.predict(output)


def count_parameters(network: nn.Module) -> int:
    """Numbers in all parameters; buffers (BN statistics) are none."""
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
def count_flops(network: nn.Module, image_size: int) -> int:
    """Floating-point operations of one image in eval mode (torch.utils.flop_counter: convolutions and matrix products,
    a multiplication and an addition are two)."""
    was_training = network.training
    network.eval()
    counter = FlopCounterMode(display=False)
    with counter:
        network(torch.zeros(1, 3, image_size, image_size))
    network.train(was_training)
    return int(counter.get_total_flops())
