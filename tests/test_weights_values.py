"""Tensors that a network cannot hold: refused in one line that names the key."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.contracts import InputError
from pipeline.weights import load_into, load_weights, read_predictor, read_state

State = dict[str, Tensor]


class Net(nn.Module):
    """A linear layer, a mask with infinities, one of truths, and a table of places."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.bn = nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("seen", torch.tensor([True, False]))
        self.register_buffer("place", torch.arange(2))


def refusal(state: State, folder: Path) -> str:
    torch.save({"model": state}, folder / "f")
    with pytest.raises(InputError) as caught:
        load_weights(folder / "f", expected=Net())
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{folder / 'f'}: ")
    return message.removeprefix(f"{folder / 'f'}: ")


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])


def rows() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ones(3, 2).to_sparse_csr()


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


WRONG_KIND = {
    "complex64": torch.ones(3, dtype=torch.complex64),
    "complex128": torch.ones(3, dtype=torch.complex128),
    "int64": torch.ones(3, dtype=torch.int64),
    "uint8": torch.ones(3, dtype=torch.uint8),
    "bool": torch.ones(3, dtype=torch.bool),
    "float8_e4m3fn": torch.ones(3).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("kind", WRONG_KIND)
def test_other_kinds_of_numbers(kind: str, tmp_path: Path) -> None:
    assert refusal({**Net().state_dict(), "fc.bias": WRONG_KIND[kind]}, tmp_path).startswith(f"fc.bias is {kind}, ")


def test_kinds_of_buffers(tmp_path: Path) -> None:
    good = Net().state_dict()
    assert refusal({**good, "place": torch.ones(2)}, tmp_path) == "place is float32, the network has int64"
    assert refusal({**good, "seen": torch.ones(2)}, tmp_path) == "seen is float32, the network has bool"
    assert refusal({**good, "bn.num_batches_tracked": torch.tensor(True)}, tmp_path).startswith(
        "bn.num_batches_tracked is"
    )


NOT_FINITE = {
    "NaN": torch.tensor([1.0, float("nan"), 1.0]),
    "infinite": torch.tensor([1.0, float("inf"), 1.0]),
    "half": torch.tensor([1.0, float("-inf"), 1.0]).half(),
    "beyond": torch.tensor([1.0, 1e39, 1.0], dtype=torch.float64),
}


@pytest.mark.parametrize("kind", NOT_FINITE)
@pytest.mark.parametrize("key", ("fc.bias", "bn.running_var"))
def test_values_that_are_no_weights(kind: str, key: str, tmp_path: Path) -> None:
    message = refusal({**Net().state_dict(), key: NOT_FINITE[kind]}, tmp_path)
    assert message.startswith(f"{key} ")
    assert ("goes beyond the range of float32" if kind == "beyond" else "is not finite (NaN or infinite)") in message


def test_what_fits_is_cast(tmp_path: Path) -> None:
    source = Net().state_dict()
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        cast = {key: value.to(kind) if value.is_floating_point() else value for key, value in source.items()}
        torch.save({**cast, "place": cast["place"].int()}, tmp_path / "f")
        network = Net()
        load_into(network, tmp_path / "f")
        assert all(torch.equal(value, cast[key].to(value.dtype)) for key, value in network.state_dict().items())


ODD = {
    "sparse": lambda: torch.ones(3).to_sparse(),
    "sparse rows": rows,
    "on the device meta": lambda: torch.ones(3, device="meta"),
    "quantized": quantized,
    "nested": nested,
}


@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_plain(kind: str, tmp_path: Path) -> None:
    state = {**Net().state_dict(), "fc.bias": ODD[kind]()}
    assert refusal(state, tmp_path).startswith("fc.bias is no plain tensor")
    # Beside the network's weights they are nobody's business.
    torch.save({"net": Net().state_dict(), "other": state["fc.bias"], "more": [state["fc.bias"]]}, tmp_path / "g")
    load_weights(tmp_path / "g", expected=Net())
    torch.save({"model": {"x": state["fc.bias"]}}, tmp_path / "h")
    with pytest.raises(InputError, match="x is no plain tensor"):
        read_state(tmp_path / "h")
    torch.save({"predictor.x": state["fc.bias"]}, tmp_path / "p")
    with pytest.raises(InputError, match="x is no plain tensor"):
        read_predictor(tmp_path / "p")


def test_two_sets_with_odd_tensors_are_compared(tmp_path: Path) -> None:
    odd = {**Net().state_dict(), "fc.bias": nested()}
    torch.save({"a": odd, "b": odd | {"fc.weight": torch.zeros(3, 2)}}, tmp_path / "f")
    with pytest.raises(InputError, match="holds several weights"):
        load_weights(tmp_path / "f", expected=Net())


class Sub(Tensor):
    """A class of tensors that a file brings with it."""


def test_subclasses(tmp_path: Path) -> None:
    state = {**Net().state_dict(), "fc.bias": torch.ones(3).as_subclass(Sub)}
    assert "pickle code" in refusal(state, tmp_path)


def test_attributes_of_a_file_hide_nothing(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    for name in ("detach", "numel", "to", "is_floating_point", "shape_of", "element_size", "round"):
        setattr(weight, name, "x")
    state = {**Net().state_dict(), "fc.weight": weight}
    torch.save({"a": state, "b": {**state}}, tmp_path / "f")
    assert torch.equal(load_weights(tmp_path / "f", expected=Net())["fc.weight"], torch.ones(3, 2))
    assert torch.equal(read_state(tmp_path / "f", weights="a", forms=[set(state)])["fc.weight"], torch.ones(3, 2))


def test_a_predictor_has_finite_values(tmp_path: Path) -> None:
    torch.save({"predictor.x": torch.tensor(np.nan)}, tmp_path / "f")
    with pytest.raises(InputError, match=r"predictor\.x is not finite"):
        read_predictor(tmp_path / "f")
    torch.save({"model": {}, "distiller": {"x": torch.tensor(np.inf)}}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="x is not finite"):
        read_predictor(tmp_path / "last.pt")
