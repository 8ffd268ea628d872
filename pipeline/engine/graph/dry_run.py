"""Runs that leave no trace, so that what is compiled from them can take their place from the first step on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

State = Callable[[], list[Tensor]]


@contextmanager
def untouched(state: State) -> Iterator[None]:
    """Puts back afterwards what `state` names, and the random state. Tensors that came up meanwhile (moments of an
    optimiser, sums) stay, and are zero, as they are at their beginning."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    random, on_cuda = torch.get_rng_state(), torch.cuda.get_rng_state() if cuda else None
    before = [(tensor, tensor.detach().clone()) for tensor in state()]
    known = {id(tensor) for tensor, _ in before}
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for tensor in state():
                if id(tensor) not in known:
                    tensor.zero_()
        torch.set_rng_state(random)
        if on_cuda is not None:
            torch.cuda.set_rng_state(on_cuda)
