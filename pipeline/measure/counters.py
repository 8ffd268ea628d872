"""What one step asks of the machine: operations, bytes they touch, and values that the host reads from the device."""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Calls from Python that wait for the device, or would if the tensor lay on one. tolist and numpy never reach the
# dispatcher on the CPU, so both levels are watched.
READING_CALLS = {
    *(Tensor.tolist, Tensor.numpy, Tensor.item, Tensor.cpu, Tensor.__array__),
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
}
# Operations whose result is on the host, or whose shape the host must know.
READING_OPERATIONS = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
}
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}


class Count(NamedTuple):
    """Of one step: operations dispatched (views left out), bytes of their inputs and outputs, host reads."""

    operations: float
    bytes: float
    reads: float

    def __sub__(self, other: "Count") -> "Count":
        return Count(*(a - b for a, b in zip(self, other, strict=True)))

    def over(self, steps: int) -> "Count":
        """Per step, of `steps`."""
        return Count(*(value / steps for value in self))


class Watch(TorchDispatchMode):
    """While entered, counts what runs, forward and backward. Graphs of torch.compile are closed to it: count eagerly.

    Bytes are those of eager execution: each operation reads its inputs and writes its outputs, nothing stays in a
    register or cache between two of them. reads: host reads by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.bytes = 0
        self.reads: Counter[str] = Counter()
        self.inside = False  # of a call from Python that is counted already
        self._calls = _Calls(self)

    def __enter__(self) -> "Watch":
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = _tensors((args, kwargs))
        if not self.inside and (name in READING_OPERATIONS or _leaves_the_device(given, out)):
            self.reads[name] += 1
        if not func.is_view and name not in ALLOCATIONS:
            self.operations += 1
            self.bytes += sum(map(_size, given)) + sum(map(_size, _written(func, args, kwargs or {}, out)))
        return out

    @property
    def count(self) -> Count:
        """So far."""
        return Count(self.operations, self.bytes, self.reads.total())


class _Calls(TorchFunctionMode):
    """Sees calls from Python that read a value, which the dispatcher of the CPU does not."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in READING_CALLS or self.watch.inside:
            return func(*args, **(kwargs or {}))
        self.watch.reads[func.__name__] += 1
        self.watch.inside = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.watch.inside = False


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any, kwargs: Any, out: Any) -> list[Tensor]:
    """Outputs; of operations without any (foreach and fused ones), the arguments that they change."""
    found = _tensors(out)
    if found:
        return found
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    changed = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return _tensors([named.get(name) for name in changed])


def _size(tensor: Tensor) -> int:
    """Bytes behind a tensor; an expanded one has fewer than its shape says."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def _leaves_the_device(given: list[Tensor], out: Any) -> bool:
    return any(t.is_cuda for t in given) and any(not t.is_cuda for t in _tensors(out) if t.dim() or t.numel())


def counted(work: Callable[[int], Any], steps: int = 2) -> Count:
    """Means per step of work(number), after one that is not counted: the first makes momentum and the like."""
    work(0)
    with Watch() as watch:
        for number in range(1, steps + 1):
            work(number)
    return watch.count.over(steps)


def cuda_waits(work: Callable[[], Any]) -> list[str]:
    """Where `work` made the host wait for a CUDA device, by torch's own account (set_sync_debug_mode)."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    # Setting the mode warns too, that it is a prototype.
    return [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]
