"""Whether tensors of a file are values that a network can hold."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
KINDS = {**dict.fromkeys(FLOATS, "float"), **dict.fromkeys(INTEGERS, "integer"), torch.bool: "bool"}
PLAIN = (Tensor, nn.Parameter)
LARGE = 64 << 20  # bytes that a view may stand for beyond those it has
NOT_FINITE = "is not finite (NaN or infinite)"


def oddity(value: Tensor) -> str:
    """Why `value` is no plain tensor in memory, '' when it is one: dense, on the CPU, of torch's own class."""
    if type(value) not in PLAIN:
        return f"a {type(value).__name__}"
    if value.is_nested:
        return "nested"
    if value.is_quantized:
        return "quantized"
    if value.layout != torch.strided:
        return "sparse"
    if value.device.type != "cpu":
        return f"on the device {value.device.type}"
    size = value.numel() * value.element_size()
    return "of few values blown up" if size > max(value.untyped_storage().nbytes(), LARGE) else ""


def plain(value: Tensor) -> Tensor:
    """`value` without gradients, hooks and attributes: a file may give those any name, `detach` too. Tensors of other
    classes than torch's own stay as they are."""
    return Tensor.detach(value) if type(value) in PLAIN else value


def unfit(state: Mapping[str, Tensor], expected: Mapping[str, Any]) -> str:
    """Why values of `state`, which has the names and shapes of `expected`, are none for it; '' when they are.

    expected: tensors, or shapes, which say nothing of types.
    """
    for name, wanted in expected.items():
        reason = _unfit(state[name], wanted if isinstance(wanted, Tensor) else None)
        if reason:
            return f"{name} {reason}"
    return ""


def _unfit(value: Tensor, wanted: Tensor | None) -> str:
    kind = KINDS.get(value.dtype)
    name = str(value.dtype).removeprefix("torch.")
    if kind is None:
        return f"is {name}, no kind of number that networks here have"
    if wanted is not None and kind != KINDS.get(wanted.dtype):
        return f"is {name}, the network has {str(wanted.dtype).removeprefix('torch.')}"
    if kind != "float":
        return ""
    cast = value if wanted is None else value.to(wanted.dtype)
    finite = torch.isfinite(cast)
    if bool(finite.all()):
        return ""
    # A mask of the network may be infinite by itself.
    if wanted is not None and wanted.device.type == "cpu" and torch.equal(finite, torch.isfinite(wanted)):
        return ""
    if bool(torch.isfinite(value).all()):
        return f"goes beyond the range of {str(cast.dtype).removeprefix('torch.')}"
    return NOT_FINITE


def infinite(state: Mapping[str, Tensor]) -> str:
    """The first tensor with a NaN or an infinite value, and that it has one; '' where there is none."""
    for name, value in state.items():
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
            return f"{name} {NOT_FINITE}"
    return ""
