"""A network together with what its method predicts by (SimKD's projector and reused classifier), as one network."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.contracts import Distiller, ModelOutput
from pipeline.models.common import Network
from pipeline.models.external.adapter import NoHead


class PredictingNetwork(nn.Module):
    """logits_BK are the predictor's; pooled vector and maps are those of `network`, whose own classifier is not used.

    Its classifier is refused as soon as it is asked for: no linear layer leads from pooled_BD to the logits.
    """

    def __init__(self, network: nn.Module, predictor: Distiller) -> None:
        super().__init__()
        self.network, self.predictor = network, predictor
        self.reason = f"this teacher predicts by {type(predictor).__name__}, so it has no classifier of its own"

    @property
    def classifier(self) -> nn.Linear:
        """Refused: InputError."""
        return NoHead(self.reason, None)

    @property
    def stage_channels(self) -> list[int]:
        """The network's."""
        return cast(Network, self.network).stage_channels

    def stages(self) -> list[nn.Module]:
        """The network's."""
        return cast(Network, self.network).stages()

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The network's."""
        return cast(list[nn.BatchNorm2d], cast(Any, self.network).bn_before_relu())

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """The predictor computes in float32, as where the run was evaluated."""
        output: ModelOutput = self.network(image_BCHW, features=True).float()
        with torch.autocast(image_BCHW.device.type, enabled=False):
            output = output._replace(logits_BK=self.predictor.predict(output))
        return output if features else output._replace(features=(), preact_features=())
