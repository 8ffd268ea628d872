"""Re-parameterisable blocks: several linear branches in training, folded exactly into one convolution afterwards.

A network asks `conv_bn` for each convolution with its batch norm and needs to know no block by name.
"""

from collections.abc import Iterable

from torch import nn

from pipeline.models.blocks.folding import Block
from pipeline.registry import Registry

BLOCKS: Registry[type[Block]] = Registry("block", __name__)
PLAIN = "plain"  # the published layers themselves: a Conv2d and a BatchNorm2d


def conv_bn(
    block: str | None,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    *,
    bias: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """A convolution with padding kernel_size // 2 and what comes after it: (Conv2d, BatchNorm2d) or (block, Identity).

    block: a name of BLOCKS; None or "plain": the plain layers, the convolution with a bias of its own if `bias`.
    Kernels of 1, and of 7 and more, get the block ConvBN whatever the name. Raises UnknownName.
    """
    if block is None or block == PLAIN:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias)
        return conv, nn.BatchNorm2d(out_channels)
    kind = BLOCKS.get(block)
    if not 1 < kernel_size < 7:
        kind = BLOCKS.get("convbn")
    return kind(in_channels, out_channels, kernel_size, stride=stride, groups=groups), nn.Identity()


def conv_bn_layers(
    block: str | None,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    *,
    bias: bool = False,
) -> list[nn.Module]:
    """`conv_bn` for a Sequential, where an Identity would shift the keys: [Conv2d, BatchNorm2d] or [block]."""
    pair = conv_bn(block, in_channels, out_channels, kernel_size, stride, groups, bias=bias)
    return [layer for layer in pair if not isinstance(layer, nn.Identity)]


def deploy(network: nn.Module) -> nn.Module:
    """`network` itself with every block folded in place. Meant for eval mode: BN statistics are frozen by it."""
    for block in [m for m in network.modules() if isinstance(m, Block)]:
        block.deploy()
    return network


def forms_of(network: nn.Module) -> list[set[str]]:
    """Names of the network's state as it is, and deployed where it has blocks."""
    own = set(network.state_dict())
    deployed = own
    for name, block in network.named_modules():
        if isinstance(block, Block):
            prefix = f"{name}." if name else ""
            deployed = {key for key in deployed if not key.startswith(prefix)}
            deployed |= {f"{prefix}{block.folded_name}.{kind}" for kind in ("weight", "bias")}
    return [own] if deployed == own else [own, deployed]


def fit_form(network: nn.Module, keys: Iterable[str]) -> None:
    """Deploys `network` if `keys` (of a state dict) are those of its deployed form; otherwise leaves it as it is.

    Counters of batch norms may be missing: torch loads a state without them.
    """
    _, *deployed = forms_of(network)
    if deployed and _counted(deployed[0]) == _counted(keys):
        deploy(network)


def _counted(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if not key.endswith("num_batches_tracked")}


def last_bn(module: nn.Module) -> nn.BatchNorm2d | None:
    """The batch norm that gives the module's output; None where it is none, or a block with several branches.

    module: a BN, a block, or a Sequential that ends in one (an Identity at its end does not count).
    """
    if isinstance(module, nn.Sequential):
        ends = [layer for layer in module if not isinstance(layer, nn.Identity)]
        return last_bn(ends[-1]) if ends else None
    if isinstance(module, Block):
        return module.single_norm()
    return module if isinstance(module, nn.BatchNorm2d) else None


def last_bns(modules: Iterable[nn.Module]) -> list[nn.BatchNorm2d]:
    """`last_bn` of each module; [] if one of them has none."""
    found = [last_bn(module) for module in modules]
    norms = [norm for norm in found if norm is not None]
    return norms if len(norms) == len(found) else []
