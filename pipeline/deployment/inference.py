"""A network as it is served: images in, logits out."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.contracts import Distiller, ModelOutput


class Inference(nn.Module):
    """network, then what its method predicts of the output (mostly: its logits); in eval mode, without gradients."""

    def __init__(
        self,
        network: nn.Module,
        predictor: Distiller | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.predictor = predictor
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """image [B, 3, H, W], normalised -> logits [B, K]."""
        output: ModelOutput = self.network(image, features=self.predictor is not None)
        return output.logits_BK if self.predictor is None else self.predictor.predict(output)

    def plain_state(self) -> dict[str, Tensor]:
        """The network's state dict with its own keys, and the predictor's under `predictor.`."""
        state = dict(self.network.state_dict())
        if self.predictor is not None:
            state |= {f"predictor.{key}": value for key, value in self.predictor.state_dict().items()}
        return state


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
