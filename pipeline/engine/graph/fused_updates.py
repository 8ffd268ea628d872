"""torch's fused updates (SGD, Adam, AdamW) in a form that can be compiled.

Two things are missing for them in torch 2.11 to 2.13: what shape those with a rate on the device return (none: they
work in place), and a functional form where one of the lists they write is empty, as AdamW's is without amsgrad and
SGD's without momentum.
"""

import torch
from torch import fx

NAMESPACE = "stillhouse"
UPDATES = ("_fused_sgd_", "_fused_sgd_.tensor_lr", "_fused_adam_.tensor_lr", "_fused_adamw_.tensor_lr")
_libraries: list[torch.library.Library] = []
_own: dict[torch._ops.OpOverload, torch._ops.OpOverload] = {}


def make_compilable(graph: fx.GraphModule) -> None:
    """Changes the updates in `graph` where torch could not compile them; what they compute stays."""
    _describe_shapes()
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and _writes_to_an_empty_list(node):
            node.target = _own_of(node.target)
    graph.recompile()


def _describe_shapes() -> None:
    if _libraries:
        return
    _libraries.append(torch.library.Library("aten", "IMPL", "Meta"))
    for name in UPDATES:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            _libraries[0].impl(name, lambda *args, **keys: None)


def _writes_to_an_empty_list(node: fx.Node) -> bool:
    arguments = zip(node.target._schema.arguments, node.args, strict=False)  # type: ignore[union-attr]
    return any(a.alias_info is not None and a.alias_info.is_write and value == [] for a, value in arguments)


def _own_of(update: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """`update` under a name of ours: torch makes a functional form of such an operation itself, by its schema."""
    if update not in _own:
        name = f"{NAMESPACE}::{update.name().removeprefix('aten::').replace('.', '_')}"
        # The kernel takes gradients in the layout of their parameters only.
        exact = (torch.Tag.needs_exact_strides,)
        torch.library.define(name, str(update._schema).removeprefix(update.name()), tags=exact)
        torch.library.impl(name, ("CPU", "CUDA"), update)
        torch.library.register_fake(name, lambda *args, **keys: None)
        _own[update] = getattr(getattr(torch.ops, NAMESPACE), name.partition("::")[2]).default
    return _own[update]
