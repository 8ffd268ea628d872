"""One forward pass of a library's network without computing anything: which module ran when, and what it returned."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 2  # told apart from windows, heads and the like, which libraries fold into the first dimension


@dataclass
class Call:
    """The first call of one module. start, end: position in the order of all starts and ends; end -1: not a tensor."""

    path: str
    start: int
    end: int = -1
    times: int = 1
    taken: Tensor | None = None
    given: Tensor | None = None
    version: int = 0


@dataclass
class Recording:
    """calls by module name; output: what the network returned."""

    calls: dict[str, Call] = field(default_factory=dict)
    output: Any = None
    clock: int = 0

    def tick(self) -> int:
        """The next moment."""
        self.clock += 1
        return self.clock

    def enter(self, path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """A forward pre-hook for the module called `path`."""

        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            if path in self.calls:
                self.calls[path].times += 1
                return
            taken = args[0] if args and isinstance(args[0], Tensor) else None
            self.calls[path] = Call(path, self.tick(), taken=taken)

        return note

    def leave(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        """A forward hook for the module called `path`."""

        def note(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            call = self.calls[path]
            if isinstance(output, Tensor):
                # the version tells a tensor from itself after an in-place ReLU
                call.end, call.given, call.version = self.tick(), output, output._version

        return note


def skeleton(network: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device: no memory, no arithmetic, nothing shared."""
    memo: dict[int, Tensor] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(network, memo)


@torch.no_grad()
def record(network: nn.Module, side: int) -> Recording:
    """The recording of `network` in eval mode on two images of side x side pixels. `network` is left as it was."""
    try:
        return _record(skeleton(network).eval(), torch.empty(ROWS, 3, side, side, device="meta"))
    except (
        RuntimeError,
        NotImplementedError,
        ValueError,
        TypeError,
    ):  # tensors that are no buffers, missing meta kernels
        return _record(copy.deepcopy(network).eval(), torch.zeros(ROWS, 3, side, side))


def _record(network: nn.Module, image_BCHW: Tensor) -> Recording:
    recording = Recording()
    for path, module in network.named_modules():
        if path and not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(recording.enter(path))
            module.register_forward_hook(recording.leave(path))
    recording.output = network(image_BCHW)
    return recording


def without_gradient(network: nn.Module, side: int) -> list[str]:
    """Names of parameters that the logits of a training step do not depend on (DDP waits for ever for them).

    A pass on the meta device; [] where that is not possible.
    """
    twin = skeleton(network).train()
    try:
        logits_BK = twin(torch.empty(ROWS, 3, side, side, device="meta"))
        logits_BK.sum().backward()
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError):
        return []
    return [name for name, p in twin.named_parameters() if p.requires_grad and p.grad is None]
