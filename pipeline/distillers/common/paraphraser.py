"""Factor transfer's autoencoder of the teacher's map, and the stacks of layers that it is made of."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def plain(channels: int) -> nn.Module:
    """No normalisation."""
    return nn.Identity()


def stack_of(kind: Callable[..., nn.Module], widths: list[int], norm: Norm) -> nn.Sequential:
    """3x3 layers through `widths`, each followed by norm and LeakyReLU .1 (the last one too)."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [kind(before, after, 3, padding=1), norm(after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's last map; the code, of k times its channels, is the teacher's factor."""

    def __init__(self, channels: int, factors: int, norm: Norm) -> None:
        super().__init__()
        self.encoder = stack_of(nn.Conv2d, [channels, channels, factors, factors], norm)
        self.decoder = stack_of(nn.ConvTranspose2d, [factors, factors, channels, channels], norm)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The reconstruction, B C H W."""
        return self.decoder(self.encoder(map_BCHW))
