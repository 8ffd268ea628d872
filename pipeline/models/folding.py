"""Batch norms folded into the convolutions before them, for a network that is only evaluated.

Which batch norm follows which convolution is read off one forward pass, not off the module tree: pairs are found in any
network, those of timm and torchvision included, and pre-activation networks keep the norms that no convolution feeds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.models.blocks import deploy
from pipeline.models.blocks.algebra import Kernel, then_norm

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


class Readers(TorchDispatchMode):
    """Records who reads the output of each convolution.

    convs: by the id of their weight; norms: by the id of their running mean. A convolution counts when it is called
    with the module's own weight and bias, once; a layer that makes its weight on the way (weight standardisation) or
    leaves its bias out does not.
    """

    def __init__(self, convs: Mapping[int, nn.Conv2d], norms: Mapping[int, nn.BatchNorm2d]) -> None:
        super().__init__()
        self.convs, self.norms = convs, norms
        self.made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors, so that no id is used twice
        self.readers: dict[int, list[nn.BatchNorm2d | None]] = {}
        self.calls: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        norm = next((self.norms[id(x)] for x in tensors if id(x) in self.norms), None)
        self.calls[id(norm)] += 1
        for x in tensors:
            if id(x) in self.made:
                self.readers[id(x)].append(norm if x is tensors[0] else None)
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and id(args[1]) in self.convs:
            conv = self.convs[id(args[1])]
            self.calls[id(conv)] += 1
            if args[2] is conv.bias:
                self.made[id(output)], self.readers[id(output)] = (conv, output), []
        return output

    def pairs(self, kept: Iterable[Tensor]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """(convolution, the batch norm that alone reads it); none whose output is among `kept`."""
        held = {x.untyped_storage().data_ptr() for x in kept}
        found = []
        for key, (conv, output) in self.made.items():
            norm = self.readers[key][0] if len(self.readers[key]) == 1 else None
            once = norm is not None and self.calls[id(conv)] == self.calls[id(norm)] == 1
            if once and norm is not None and output.untyped_storage().data_ptr() not in held:
                found.append((conv, norm))
        return found


def _after(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What the layer does after normalising: its children in their order (timm's have an activation); None where it
    does something else. It keeps the layer's hooks."""
    assert norm.running_mean is not None and norm.running_var is not None
    rest: nn.Module = nn.Sequential(*norm.children()) if len(norm._modules) else nn.Identity()
    x_BCHW = torch.linspace(-3, 3, 4 * norm.num_features).reshape(2, 2, -1).movedim(-1, 1)[..., None].to(norm.weight)
    normed_BCHW = F.batch_norm(x_BCHW, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, norm.eps)
    if not torch.allclose(nn.Module.__call__(norm, x_BCHW), rest(normed_BCHW)):
        return None
    for name in HOOKS:
        setattr(rest, name, getattr(norm, name))
    return rest.train(norm.training)


def _fold_into(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert conv.bias is not None
    kernel = then_norm(Kernel(conv.weight.double(), conv.bias.double()), norm)
    conv.weight = nn.Parameter(torch.empty_like(conv.weight).copy_(kernel.weight_OIHW), requires_grad=False)
    conv.bias = nn.Parameter(kernel.bias_O.to(conv.weight.dtype), requires_grad=False)


def _candidates(network: nn.Module) -> tuple[dict[int, nn.Conv2d], dict[int, nn.BatchNorm2d]]:
    """Convolutions by weight, and batch norms with fixed statistics by running mean."""
    convs = {id(m.weight): m for m in network.modules() if isinstance(m, nn.Conv2d) and not m._forward_hooks}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine and not m.training]
    return convs, {id(m.running_mean): m for m in norms if m.running_mean is not None}


@torch.no_grad()
def fold_norms(network: nn.Module, image_BCHW: Tensor) -> nn.Module:
    """A copy of `network` (in eval mode) in which every batch norm that alone reads a convolution is part of it, and
    every re-parameterised block one convolution. The other tensors are shared with `network`, which stays as it is.

    Outputs, features included, are the same up to rounding: what a feature shows raw is left alone. The arithmetic is
    float64. image_BCHW: any image of a size that the network takes, on its device.
    """
    shared = {id(x): x for x in (*network.parameters(), *network.buffers())}
    copy = deploy(deepcopy(network, dict(shared)))
    convs, norms = _candidates(copy)
    bare = [conv for conv in convs.values() if conv.bias is None]
    for conv in bare:  # a bias that changes nothing shows whether the layer would use one
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
    with Readers(convs, norms) as trace:
        output = copy(image_BCHW, features=bool(copy.stage_channels))
    folded: dict[int, nn.Module] = {}
    for conv, norm in trace.pairs(x for x in tree_leaves(output) if isinstance(x, Tensor)):
        rest = _after(norm)
        if rest is not None:
            _fold_into(conv, norm)
            folded[id(norm)] = rest
            bare = [other for other in bare if other is not conv]
    for conv in bare:
        conv.bias = None
    for parent in list(copy.modules()):
        parent._modules.update({key: folded[id(m)] for key, m in parent._modules.items() if id(m) in folded})
    return copy.requires_grad_(False)
