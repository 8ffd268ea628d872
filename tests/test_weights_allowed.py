"""What weight files may hold besides tensors: options of a run and numbers of NumPy, and nothing behind their names."""

import argparse
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.contracts import InputError
from pipeline.weights import load_weights
from pipeline.weights.files import read


def network() -> nn.Module:
    return nn.Linear(2, 3)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_weights(path, expected=network())
    return str(caught.value)


class RunsCode:
    """Pickles as a call that makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", (True, False))
def test_what_is_allowed_does_not_open_the_door(zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    payloads: dict[str, Any] = {
        "options": argparse.Namespace(lr=0.1, hook=RunsCode(marker)),
        "nested options": argparse.Namespace(inner=argparse.Namespace(hooks=[{"a": RunsCode(marker)}])),
        "path": argparse.Namespace(path=Path("x")),
        "array": argparse.Namespace(rates=np.arange(3.0)),
        "array of objects": np.array([RunsCode(marker)], dtype=object),
        "text of NumPy": np.str_("x"),
        "record": np.zeros(1, dtype=[("a", "f8")])[0],
        "type": np.dtype("f8").type,
    }
    for name, payload in payloads.items():
        torch.save(
            {"model": network().state_dict(), "opt": payload}, tmp_path / "f", _use_new_zipfile_serialization=zipped
        )
        assert "refused" in refusal(tmp_path / "f"), name
    assert not marker.exists()


class Turns:
    """Pickles as a call that turns NumPy's shared type of float64 around."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("f8", False, False), (3, ">", None, None, None, -1, -1, 0)


def test_shared_types_of_numpy_stay_as_they_are(tmp_path: Path) -> None:
    torch.save({"model": network().state_dict(), "x": Turns()}, tmp_path / "f")
    load_weights(tmp_path / "f", expected=network())
    assert np.dtype("f8").isnative and np.float64(1.5).tobytes() == struct.pack("<d", 1.5)


@pytest.mark.parametrize("module", ("numpy.core.multiarray", "numpy._core.multiarray"))
def test_numbers_keep_their_value(module: str, tmp_path: Path) -> None:
    for value in (
        np.float64(75.6),
        np.float32(-2.5),
        np.int64(-3),
        np.uint8(200),
        np.bool_(True),
        np.array(7, ">i4")[()],
    ):
        torch.save(value, tmp_path / "f", _use_new_zipfile_serialization=False)
        content = (tmp_path / "f").read_bytes()
        (tmp_path / "f").write_bytes(content.replace(b"numpy._core.multiarray", module.encode()))
        assert read(tmp_path / "f") == value.item()
