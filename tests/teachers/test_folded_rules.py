"""Which batch norms may be folded: small networks, each with a trap."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import ModelOutput
from pipeline.models.folding import fold_norms

CHANNELS = 4


class Small(nn.Module):
    """A convolution, a batch norm and a head; subclasses say what happens between them."""

    stage_channels = (CHANNELS,)

    def __init__(self, conv: nn.Conv2d | None = None, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = conv or nn.Conv2d(3, CHANNELS, 3, bias=False)
        self.norm = norm or nn.BatchNorm2d(CHANNELS)
        if self.norm.affine:
            nn.init.uniform_(self.norm.weight, 0.5, 2)
            nn.init.normal_(self.norm.bias)
        if self.norm.running_mean is not None:
            nn.init.normal_(self.norm.running_mean)
        self.fc = nn.Linear(CHANNELS, 2)
        self.double().eval()

    def maps(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(what goes on to the head, the feature)."""
        map_BCHW = self.norm(self.conv(image_BCHW))
        return map_BCHW, map_BCHW

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        last_BCHW, feature_BCHW = self.maps(image_BCHW)
        pooled_BD = F.relu(last_BCHW).mean(dim=(2, 3))
        return ModelOutput(self.fc(pooled_BD), pooled_BD, (feature_BCHW,) if features else ())


def folds(network: nn.Module) -> bool:
    """Whether the batch norm is gone; the outputs are the same in any case."""
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    folded = fold_norms(network, image[:1])
    with torch.no_grad():
        for found, wanted in zip(folded(image, features=True), network(image, features=True), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert isinstance(network.norm, nn.BatchNorm2d)
    return not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def test_a_plain_pair() -> None:
    assert folds(Small()) and folds(Small(nn.Conv2d(3, CHANNELS, 3, bias=True, padding_mode="reflect", padding=1)))


def test_a_raw_feature_stays_raw() -> None:
    class Raw(Small):
        def maps(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            raw_BCHW = self.conv(image_BCHW)
            return self.norm(raw_BCHW), raw_BCHW.flip(3).flip(3) if self.copied else raw_BCHW.view_as(raw_BCHW)

    for copied in (False, True):
        Raw.copied = copied
        assert not folds(Raw())


def test_a_second_reader() -> None:
    class Twice(Small):
        def maps(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            raw_BCHW = self.conv(image_BCHW)
            return self.norm(raw_BCHW) + raw_BCHW, raw_BCHW + 1

    assert not folds(Twice())


def test_a_layer_that_is_called_twice() -> None:
    class Shared(Small):
        def maps(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            one, other = self.norm(self.conv(image_BCHW)), self.norm(self.conv(2 * image_BCHW))
            return one + other, other

    class SharedNorm(Small):
        def maps(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            map_BCHW = self.norm(self.conv(image_BCHW))
            return self.norm(map_BCHW), map_BCHW

    assert not folds(Shared()) and not folds(SharedNorm())


def test_an_activation_between() -> None:
    class Between(Small):
        def maps(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            map_BCHW = self.norm(F.relu(self.conv(image_BCHW), inplace=True))
            return map_BCHW, map_BCHW

    assert not folds(Between())


def test_weights_made_on_the_way_and_ignored_biases() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)

    class WithoutBias(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, self.weight)

    for kind in (Standardised, WithoutBias):
        assert not folds(Small(kind(3, CHANNELS, 3, bias=False)))


def test_norms_without_statistics_or_weights_and_others_in_training_mode() -> None:
    assert not folds(Small(norm=nn.BatchNorm2d(CHANNELS, track_running_stats=False)))
    assert not folds(Small(norm=nn.BatchNorm2d(CHANNELS, affine=False)))
    network = Small()
    network.norm.train()
    image = torch.randn(2, 3, 8, 8).double()
    assert any(isinstance(m, nn.BatchNorm2d) for m in fold_norms(network, image).modules())


def test_norms_that_do_something_else_too() -> None:
    class Active(nn.BatchNorm2d):
        """As timm's: an activation as a child."""

        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = nn.SiLU()

        def forward(self, input: Tensor) -> Tensor:
            return self.act(super().forward(input))

    class Odd(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    assert folds(Small(norm=Active(CHANNELS)))
    assert not folds(Small(norm=Odd(CHANNELS)))


def test_hooks_on_the_norm_go_on() -> None:
    network, seen = Small(), []
    network.norm.register_forward_hook(lambda _module, _args, output: seen.append(output))
    image = torch.randn(1, 3, 8, 8).double()
    folded = fold_norms(network, image)
    seen.clear()
    with torch.no_grad():
        network(image), folded(image)
    assert len(seen) == 2
    torch.testing.assert_close(*seen)
