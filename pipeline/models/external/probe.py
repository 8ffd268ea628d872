"""Where the stages of an unknown network end, and where its head begins: read off one recorded forward pass.

Of all maps that modules return, for each resolution the last one, provided no finer map follows it: this leaves out
squeeze-and-excitation, pooled attention and the like, and in a ResNet it finds the stem and layer1 to layer4. Networks
of one resolution (ViT, Mixer) are cut into four parts of equally many blocks.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pipeline.contracts import InputError
from pipeline.models.external.recording import ROWS, Call, Recording, record, without_gradient

Layout = Literal["BCHW", "BHWC", "BNC"]
MAX_PREFIX = 16  # class and register tokens before the patches
ALIKE = 1.4  # maps whose sides differ by less are of one stage (convolutions without padding)
PATCH = 4  # a first feature this much smaller than the image is a stage, not the stem
HALVES = 2.9  # a module that divides the side by less is one transition, not several stages
PARTS = 4  # of a network of one resolution
LONG_RUN, BULK = 6, 0.5  # blocks of a kind found at no other resolution, and their share of all parameters


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A module whose output is a feature. prefix: tokens before the patches (layout BNC)."""

    path: str
    layout: Layout
    channels: int
    prefix: int = 0


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """taps: stem and stages in order; head: name of the last layer; linear: its output is the logits, untouched.

    stage_of: index of the tap before which each parameter is first used, by name; parameters of the head have none.
    unused: names of parameters that get no gradient in training.
    """

    taps: tuple[Tap, ...]
    head: str
    linear: bool
    stage_of: dict[str, int]
    unused: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Map:
    """A call that returned a map of side x side pixels."""

    call: Call
    tap: Tap
    side: int


def examine(network: nn.Module, *, name: str, num_classes: int, side: int) -> Anatomy:
    """The anatomy of `network`, which takes images of side x side pixels. Raises InputError (odd output, no head)."""
    try:
        recording = record(network, side)
    except Exception as error:  # whatever a library raises on an image of the size that it names itself
        raise InputError(f"{name} does not run on {side} x {side} pixels: {one_line(error)}") from None
    head = _head(recording, network, name, num_classes)
    starts = _starts(recording, network)
    maps = [one for one in _maps(recording, side) if one.call.end < recording.calls[head].start]
    chosen = _isotropic(maps, starts, network) or _with_stem(_stages(maps, starts), maps, side)
    ends = [one.call.end for one in chosen]
    return Anatomy(
        taps=tuple(one.tap for one in chosen),
        head=head,
        linear=_is_output(recording.calls[head].given, recording.output),
        stage_of={key: sum(end < start for end in ends) for key, start in starts.items() if start < ends[-1]}
        if ends
        else {},
        unused=tuple(without_gradient(network, side)),
    )


def one_line(error: Exception) -> str:
    """The first line of the message, or the kind of the error where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _is_output(tensor: Tensor | None, output: Tensor) -> bool:
    """Whether `output` is `tensor` or a view of it."""
    return tensor is not None and (output is tensor or (output._base is not None and output._base is tensor))


def _head(recording: Recording, network: nn.Module, name: str, num_classes: int) -> str:
    """The last layer, linear or 1x1 convolution, with as many outputs as classes."""
    output = recording.output
    if not isinstance(output, Tensor):
        raise InputError(f"{name} returns a {type(output).__name__} in place of logits")
    if output.shape != (ROWS, num_classes):
        raise InputError(f"{name} returns {list(output.shape[1:])} per image in place of {num_classes} logits")
    found = [call for path, call in recording.calls.items() if _width(network.get_submodule(path)) == num_classes]
    if not found:
        raise InputError(f"{name} ends in no linear layer or 1x1 convolution with {num_classes} outputs")
    return max(found, key=lambda call: (_is_output(call.given, output), call.end)).path


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}:
        return module.out_channels
    return 0


def _starts(recording: Recording, network: nn.Module) -> dict[str, int]:
    """By parameter: when its module, or the nearest one around it that was called at all, was first called."""
    starts: dict[str, int] = {}
    for key, _ in network.named_parameters():
        owner = key.rpartition(".")[0]
        while owner and owner not in recording.calls:
            owner = owner.rpartition(".")[0]
        starts[key] = recording.calls[owner].start if owner else 0
    return starts


def _maps(recording: Recording, image_side: int) -> list[Map]:
    """All calls that returned a map, in the order of their ends."""
    calls = [c for c in recording.calls.values() if c.given is not None and c.times == 1]
    calls.sort(key=lambda call: call.end)
    grid = Grid.of([call.given for call in calls if call.given is not None])
    maps = [
        Map(call=call, tap=found[0], side=found[1]) for call in calls if (found := grid.read(call.given, call.path))
    ]
    entered = [(one, found[1]) for one in maps if (found := grid.read(one.call.taken, ""))]
    around = [(f"{one.tap.path}.", side, one.side) for one, side in entered if side < image_side]
    return [one for one in maps if not any(one.tap.path.startswith(path) and _inner(one, *io) for path, *io in around)]


def _inner(one: Map, taken: int, given: int) -> bool:
    """Whether `one` is no stage's end, for it arose in a module that takes and gives maps of these sides.

    Either that module halves the resolution (the first block of a ResNet's layer2), so that it is of the next stage, or
    both are coarser (attention matrices, upsampling inside a block).
    """
    return given < one.side == taken < HALVES * given or max(taken, given) < one.side


@dataclass(frozen=True)
class Grid:
    """How to read a tensor as a map: token_counts and sides that the network has."""

    token_counts: set[int]
    sides: set[int]

    @classmethod
    def of(cls, tensors: list[Tensor]) -> "Grid":
        """The grid of a network whose modules returned `tensors`."""
        counts = {int(t.shape[1]) for t in tensors if t.ndim == 3 and t.shape[0] == ROWS}
        bare = cls(counts, set())
        seen = {found[1] for tensor in tensors if (found := bare.read(tensor, ""))}
        halves = {rounded for side in seen for n in range(4) for rounded in (side >> n, -(-side >> n))}
        return cls(counts, halves)

    def read(self, tensor: Tensor | None, path: str) -> tuple[Tap, int] | None:
        """(tap at `path`, side) when `tensor` is a square map of more than one pixel for each of the images."""
        if tensor is None or tensor.shape[:1] != (ROWS,):
            return None
        if tensor.ndim == 4:
            return self._read_map(tensor, path)
        return self._read_tokens(tensor, path) if tensor.ndim == 3 else None

    def _read_map(self, tensor: Tensor, path: str) -> tuple[Tap, int] | None:
        a, b, c = map(int, tensor.shape[1:])
        if b == c and b > 1 and b not in self.token_counts:  # tokens x tokens is an attention matrix
            return Tap(path=path, layout="BCHW", channels=a), b
        return (Tap(path=path, layout="BHWC", channels=c), a) if a == b != c and a > 1 else None

    def _read_tokens(self, tensor: Tensor, path: str) -> tuple[Tap, int] | None:
        """A square of patches, of a side that the network has as a map too, after at most MAX_PREFIX other tokens."""
        count, channels = map(int, tensor.shape[1:])
        side = math.isqrt(count)
        while side > 1 and count - side * side <= MAX_PREFIX:
            if side in self.sides:
                return Tap(path=path, layout="BNC", channels=channels, prefix=count - side * side), side
            side -= 1
        return None


def _stages(maps: list[Map], starts: dict[str, int]) -> list[Map]:
    """The last map of each resolution; from the end backwards, each finer than all that follow it."""
    chosen: list[Map] = []
    for one in reversed(maps):
        if not chosen or one.side > ALIKE * chosen[0].side:
            chosen.insert(0, _outermost(one, maps))
    return [
        one
        for before, one in zip([None, *chosen], chosen, strict=False)
        if any((before.call.end if before else -1) < start < one.call.end for start in starts.values())
    ]


def _with_stem(chosen: list[Map], maps: list[Map], image_side: int) -> list[Map]:
    """Where large patches or strides leave stem and first stage one resolution (Swin, ConvNeXt), the stem's map too."""
    if not chosen or chosen[0].side * PATCH > image_side:
        return chosen
    same = [one for one in maps if one.side == chosen[0].side and one.call.end < chosen[0].call.end]
    around = [one for one in same if f"{same[0].tap.path}.".startswith(f"{one.tap.path}.")]
    return [min(around, key=lambda one: len(one.tap.path)), *chosen] if around else chosen


def _outermost(one: Map, maps: list[Map]) -> Map:
    """Of the modules that returned this very tensor, the first of the outermost: a stage, not the dropout after it."""
    same = [m for m in maps if m.call.given is one.call.given and m.call.version == one.call.version]
    return min(same, key=lambda m: (m.tap.path.count("."), m.call.end))


def _isotropic(maps: list[Map], starts: dict[str, int], network: nn.Module) -> list[Map]:
    """Stem and four parts of a network that is one long run of equal blocks; [] where it is not."""
    runs: dict[tuple[object, ...], list[Map]] = defaultdict(list)
    for one in maps:
        parent, kind = one.tap.path.rpartition(".")[0], type(network.get_submodule(one.tap.path))
        if any(key.startswith(f"{one.tap.path}.") for key in starts):
            runs[parent, kind, one.side, one.tap.layout, one.tap.channels].append(one)
    if not runs:
        return []
    run = max(runs.values(), key=lambda run: (len(run), -run[0].tap.path.count(".")))
    sizes = {key: p.numel() for key, p in network.named_parameters()}
    held = sum(size for key, size in sizes.items() if any(key.startswith(f"{one.tap.path}.") for one in run))
    first = min(recorded.call.start for recorded in run)
    kind, side = type(network.get_submodule(run[0].tap.path)), run[0].side
    elsewhere = any(one.side != side and type(network.get_submodule(one.tap.path)) is kind for one in maps)
    bulk = len(run) >= LONG_RUN and held > BULK * sum(sizes.values()) and not elsewhere
    if not bulk and (len(run) < PARTS or len(_stages(maps, starts)) > 2):
        return []
    stem = [one for one in maps if one.call.end < first and one.side == run[0].side]
    ends = sorted({math.ceil(len(run) * part / PARTS) - 1 for part in range(1, PARTS + 1)})
    return [_outermost(one, maps) for one in stem[-1:]] + [run[i] for i in ends]
