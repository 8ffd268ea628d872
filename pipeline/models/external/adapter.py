"""A library's network in the terms of this package (pipeline.models.common.Network), found out by `examine`."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from pipeline.contracts import InputError, ModelOutput
from pipeline.models.external.probe import Anatomy, Tap

IDLE, HEAD, ALL = range(3)


class Kept:
    """What one forward pass leaves for `External.forward`: the head's input and, if wanted, the tapped outputs."""

    def __init__(self) -> None:
        self.wanted = IDLE
        self.head_input: Tensor | None = None
        self.maps: dict[int, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Kept":
        """Empty: a copied network shares no tensor with the first one's last pass."""
        return Kept()


class KeepOutput:
    """Forward hook that keeps a module's output as feature `index`. An object, so that deepcopy follows it."""

    def __init__(self, kept: Kept, index: int) -> None:
        self.kept, self.index = kept, index

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.kept.wanted == ALL:
            self.kept.maps[self.index] = output


class KeepInput:
    """Forward pre-hook that keeps the head's input."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.kept.wanted != IDLE:
            self.kept.head_input = args[0]


class ShownThrough(nn.Module):
    """Shares a name of our contract with the library's child of that name, whose attributes show through.

    torch.export finds parameters by their names: network.classifier.6 must stay the library's, whatever our
    `classifier` is.
    """

    def __init__(self, child: nn.Module | None) -> None:
        nn.Module.__init__(self)  # not the one of nn.Linear, which would draw weights
        self.__dict__["child"] = child

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["child"], name)


class StageList(ShownThrough):
    """Called, it gives the stages."""

    def __init__(self, stages: list[nn.Module], child: nn.Module | None) -> None:
        super().__init__(child)
        self.__dict__["found"] = stages

    def forward(self) -> list[nn.Module]:
        """One module per feature."""
        return list(self.__dict__["found"])


class Head(ShownThrough, nn.Linear):
    """The library's last layer as nn.Linear. The parameters are its own; the weight of a 1x1 convolution is a view."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, child: nn.Module | None) -> None:
        ShownThrough.__init__(self, child)
        self.in_features, self.out_features = int(layer.weight.shape[1]), int(layer.weight.shape[0])
        if isinstance(layer, nn.Linear):
            self._parameters = layer._parameters
        else:
            # not by registering them: a child's `weight` that shows through would count as taken
            weight_KD = nn.Parameter(layer.weight.detach().flatten(1), layer.weight.requires_grad)
            self._parameters = {"weight": weight_KD, "bias": layer._parameters["bias"]}


class NoHead(ShownThrough, nn.Linear):
    """In place of a classifier that does not exist: raises InputError as soon as its weights are asked for."""

    def __init__(self, reason: str, child: nn.Module | None) -> None:
        super().__init__(child)
        self.__dict__["reason"] = reason
        self.__dict__["_parameters"] = {} if child is None else child._parameters

    def __getattribute__(self, name: str) -> Any:
        if name in {"weight", "bias", "in_features", "out_features", "forward"}:
            raise InputError(self.__dict__["reason"])
        return super().__getattribute__(name)


class External(nn.Module):
    """`library`, a network of timm or torchvision, with features. State-dict keys are the library's own.

    Children, parameters and buffers are those of `library` (the very dictionaries), and the library's forward runs on
    `library`, which keeps its own attributes: some of its networks have a child called `stages` or `classifier`.
    """

    library: nn.Module
    untrained: str | None = None  # why the classifier of a teacher must not be used
    tapped: dict[str, nn.Module]

    def __init__(self, library: nn.Module, anatomy: Anatomy, name: str) -> None:
        super().__init__()
        shared = {key: library.__dict__[key] for key in ("_modules", "_parameters", "_buffers")}
        shared |= {"_non_persistent_buffers_set": library.__dict__["_non_persistent_buffers_set"]}
        self.__dict__.update(shared, library=library, tapped={}, training=library.training)
        self.anatomy, self.name, self.kept = anatomy, name, Kept()
        for parameter in anatomy.unused:
            library.get_parameter(parameter).requires_grad_(False)
        self._attach()

    def _attach(self) -> None:
        """Puts the hooks on the modules that bear the tapped names now; SyncBatchNorm, for one, replaces modules."""
        wanted = {tap.path: KeepOutput(self.kept, i) for i, tap in enumerate(self.anatomy.taps)}
        for path, hook in wanted.items():
            module = self.get_submodule(path)
            if self.tapped.get(path) is not module:
                module.register_forward_hook(hook)
                self.tapped[path] = module
        head = self.get_submodule(self.anatomy.head)
        if self.tapped.get("") is not head:
            head.register_forward_pre_hook(KeepInput(self.kept))
            self.tapped[""] = head

    def train(self, mode: bool = True) -> "External":
        """Also sets the library's own flag, which its forward reads."""
        super().train(mode)
        self.library.training = mode
        self._attach()
        return self

    def get_submodule(self, target: str) -> nn.Module:
        """By the library's names."""
        return self.library.get_submodule(target) if target else self

    @property
    def classifier(self) -> nn.Linear:
        """pooled_BD -> logits_BK. Its use raises InputError where the logits are not that (two heads)."""
        child = self._modules.get("classifier")
        if self.untrained is not None:
            return NoHead(self.untrained, child)
        if not self.anatomy.linear:
            reason = f"{self.name} has no linear classifier of pooled features; its head is {self.anatomy.head}"
            return NoHead(reason, child)
        layer = self.library.get_submodule(self.anatomy.head)
        if isinstance(layer, nn.Linear) and child in (None, layer):
            return layer
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return Head(layer, child)

    @property
    def stage_channels(self) -> list[int]:
        """Channels of each feature."""
        return [tap.channels for tap in self.anatomy.taps]

    @property
    def stages(self) -> StageList:
        """stages(): one nn.ModuleList per feature, of the largest modules whose parameters are first used there."""
        parts = [nn.ModuleList(self._owners(self.library, "", i)) for i in range(len(self.anatomy.taps))]
        return StageList(list(parts), self._modules.get("stages"))

    def _owners(self, module: nn.Module, prefix: str, stage: int) -> Iterator[nn.Module]:
        stage_of = self.anatomy.stage_of
        inside = {stage_of.get(prefix + key) for key, _ in module.named_parameters()}
        if stage not in inside:
            return
        if inside == {stage}:
            yield module
            return
        own = [p for key, p in module.named_parameters(recurse=False) if stage_of.get(prefix + key) == stage]
        if own:
            yield nn.ParameterList(own)
        for key, child in module.named_children():
            yield from self._owners(child, f"{prefix}{key}.", stage)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """[]: which BN comes before which activation cannot be seen from outside."""
        return []

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        """features: maps B C H W, tokens laid out as they lie on the image; no preact_features.

        Raises InputError when no map was found. Asking for features adds no operation.
        """
        kept, taps = self.kept, self.anatomy.taps
        if features and not taps:
            raise InputError(f"{self.name} has no feature maps that could be found")
        kept.wanted = ALL if features else HEAD
        logits_BK = self.library(image_BCHW)
        head_input, maps = kept.head_input, kept.maps
        kept.wanted, kept.head_input, kept.maps = IDLE, None, {}
        assert head_input is not None
        found = [as_map(maps[i], tap, image_BCHW) for i, tap in enumerate(taps)] if features else []
        return ModelOutput(logits_BK, _pool(head_input), tuple(found))


def as_map(x: Tensor, tap: Tap, image_BCHW: Tensor) -> Tensor:
    """`x` in the layout of `tap` as B C H W; tokens fill a grid of the image's shape, row by row."""
    if tap.layout == "BCHW":
        return x
    if tap.layout == "BHWC":
        return x.permute(0, 3, 1, 2)
    count, (height, width) = x.shape[1] - tap.prefix, image_BCHW.shape[2:]
    rows = round((count * height / width) ** 0.5)
    return x[:, tap.prefix :].transpose(1, 2).unflatten(2, (rows, count // rows))


def _pool(x: Tensor) -> Tensor:
    """The head's input as B D: itself, or its mean over tokens (B N D) or over the map (B D H W)."""
    if x.ndim == 4:
        return x.mean(dim=(2, 3))
    return x.mean(dim=1) if x.ndim == 3 else x
