"""Every layout of foreign weights, and every way in which a file can be unfit. All files are made here."""

import argparse
import os
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.contracts import InputError
from pipeline.weights import load_into, load_weights, read_state, weights_hash

State = dict[str, Tensor]


class Net(nn.Module):
    """Two layers, a BN with an integer buffer, and a classifier."""

    def __init__(self, num_classes: int = 5, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def distiller(student: State, teacher: State) -> State:
    """What mdistiller's `latest` holds: the whole distiller inside DataParallel, with a method's own layers."""
    method = {"module.conv_reg.weight": torch.ones(2), "module.crd_loss.memory": torch.ones(3)}
    return {**under("module.student.", student), **under("module.teacher.", teacher), **method}


def same(a: State, b: State) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def refusal(path: Path | str, network: nn.Module | None = None, **options: Any) -> str:
    """The message of the InputError, which must be one line that names the file."""
    with pytest.raises(InputError) as caught:
        load_weights(path, expected=network or Net(), **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "bare, ordered": OrderedDict,
    "mdistiller student file": lambda s: {"model": s},
    "RepDistiller best file": lambda s: {"epoch": 240, "model": s, "best_acc": torch.tensor(75.6)},
    "SimKD": lambda s: {"epoch": 3, "best_acc": 1.5, "model": s},
    "RepDistiller last file": lambda s: {
        "opt": argparse.Namespace(lr=0.1, lr_decay_epochs=[150, 180], model="resnet8", path_t=None, cosine=False),
        "model": s,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "best_acc of NumPy": lambda s: {"model": s, "best_acc": np.float64(75.6), "epoch": np.int64(3), "b": np.bool_(1)},
    "of ours": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "step": 7, "rng": []},
    "state_dict beside a model's name": lambda s: {"model": "resnet", "state_dict": s},
    "DataParallel": lambda s: {"state_dict": under("module.", s)},
    "compiled, then DDP": lambda s: under("module._orig_mod.", s),
    "DDP twice": lambda s: {"model": under("module.module.", s)},
    "parameters instead of tensors": lambda s: {
        k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()
    },
    "whole distiller": lambda s: {"epoch": 1, "model": distiller(s, Net(seed=9).state_dict()), "best_acc": -1},
    "whole distiller, unwrapped": lambda s: {"model": {**under("student.", s), "teacher.x": torch.ones(1)}},
    "whole distiller of DDP networks": lambda s: {"model": under("student.module.", s)},
}


@pytest.mark.parametrize("zipped", (True, False))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, zipped: bool, tmp_path: Path) -> None:
    source, network = Net(seed=1), Net(seed=2)
    source.bn.num_batches_tracked += 3
    torch.save(LAYOUTS[layout](source.state_dict()), tmp_path / "f", _use_new_zipfile_serialization=zipped)
    assert same(load_weights(tmp_path / "f", expected=network), source.state_dict())
    load_into(network, str(tmp_path / "f"))
    assert same(network.state_dict(), source.state_dict())


def test_parts_of_a_whole_distiller(tmp_path: Path) -> None:
    student, teacher = Net(seed=1), Net(width=6, seed=2)
    torch.save({"model": distiller(student.state_dict(), teacher.state_dict())}, tmp_path / "latest")
    assert same(load_weights(tmp_path / "latest", expected=student, part="student"), student.state_dict())
    assert same(load_weights(tmp_path / "latest", expected=teacher, part="teacher"), teacher.state_dict())
    torch.save({"model": under("module.student.", student.state_dict())}, tmp_path / "vanilla")
    assert same(load_weights(tmp_path / "vanilla", expected=student, part="teacher"), student.state_dict())
    torch.save({"model": student.state_dict()}, tmp_path / "single")
    assert same(load_weights(tmp_path / "single", expected=student, part="teacher"), student.state_dict())


@pytest.mark.parametrize("name", ("w.safetensors", "no_suffix"))
def test_safetensors(name: str, tmp_path: Path) -> None:
    source = Net(seed=1)
    safetensors.torch.save_file(source.state_dict(), tmp_path / name, metadata={"epoch": "3"})
    assert weights_hash(load_weights(tmp_path / name, expected=Net())) == weights_hash(source.state_dict())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5])
    assert "cut short" in refusal(tmp_path / name)


def test_run_folder_gives_its_student(tmp_path: Path) -> None:
    run, source = tmp_path / "run", Net(seed=1)
    (run / "checkpoints").mkdir(parents=True)
    torch.save({"model": Net(seed=3).state_dict()}, run / "checkpoints" / "last.pt")
    assert "student.safetensors" in refusal(run)
    safetensors.torch.save_file(source.state_dict(), run / "student.safetensors")
    assert weights_hash(load_weights(run, expected=Net())) == weights_hash(source.state_dict())


def test_expected_may_be_shapes_or_tensors(tmp_path: Path) -> None:
    state = Net(seed=1).state_dict()
    torch.save(state, tmp_path / "f")
    for expected in (state, {key: value.shape for key, value in state.items()}):
        assert same(load_weights(tmp_path / "f", expected=expected), state)
    with pytest.raises(InputError, match="1 missing keys"):
        load_weights(tmp_path / "f", expected={**{key: tuple(v.shape) for key, v in state.items()}, "more": (3,)})


def test_weights_of_another_precision_are_cast_by_the_network(tmp_path: Path) -> None:
    source = Net(seed=1).half()
    torch.save(source.state_dict(), tmp_path / "f")
    network = Net(seed=2)
    load_into(network, tmp_path / "f")
    assert network.fc.weight.dtype == torch.float32 and torch.equal(network.fc.weight, source.fc.weight.float())


class RunsCode:
    """Pickles as a call that makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", (None, 0, 2, 4, 5))
@pytest.mark.parametrize("whole", (False, True))
def test_pickle_code_is_refused_and_never_runs(protocol: int | None, whole: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    payload = RunsCode(marker) if whole else {"model": Net().state_dict(), "extra": RunsCode(marker)}
    with (tmp_path / "f").open("wb") as stream:
        if protocol is None:
            torch.save(payload, stream)
        else:
            pickle.dump(payload, stream, protocol=protocol)
    message = refusal(tmp_path / "f")
    assert "pickle code" in message and "refused" in message
    assert not marker.exists()
    pickle.loads(pickle.dumps(RunsCode(marker)))
    assert marker.exists()  # the payload was a live one


def test_refused_classes_are_named(tmp_path: Path) -> None:
    torch.save({"opt": types.SimpleNamespace(lr=0.1), "model": Net().state_dict()}, tmp_path / "last")
    assert "types.SimpleNamespace" in refusal(tmp_path / "last")
    torch.save(Net(), tmp_path / "module")
    assert "Net" in refusal(tmp_path / "module")
    archive = torch._C.PyTorchFileWriter(str(tmp_path / "script"))
    archive.write_record("constants.pkl", b"", 0)  # what tells a TorchScript archive from a checkpoint
    archive.write_end_of_file()
    assert "TorchScript" in refusal(tmp_path / "script")


def test_damaged_files(tmp_path: Path) -> None:
    torch.save({"model": Net().state_dict()}, tmp_path / "whole")
    good = (tmp_path / "whole").read_bytes()
    flipped = bytearray(good)
    flipped[good.index(Net().state_dict()["fc.weight"].numpy().tobytes()) + 8] ^= 1
    files = {
        "half": good[: len(good) // 2],
        "most": good[:-10],
        "empty": b"",
        "text": b"hello, this is a note\n",
        "page": b"<!DOCTYPE html><html>404</html>",
        "noise": bytes(range(256)),
        "flipped": bytes(flipped),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert "damaged" in refusal(tmp_path / name), name
    assert "wrong checksum" in refusal(tmp_path / "flipped")


@pytest.mark.parametrize("content", ({"epoch": 3}, {}, [1, 2], {"model": {"lr": 0.1}}, {"model": {}}, torch.ones(2)))
def test_files_without_weights(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "f")
    assert "holds no" in refusal(tmp_path / "f")


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nothing.pth")
    assert "No such file" in refusal(tmp_path / "nothing.safetensors")
    (tmp_path / "f").write_bytes(b"x")
    assert "Not a directory" in refusal(tmp_path / "f" / "g")


def test_another_number_of_classes(tmp_path: Path) -> None:
    torch.save({"model": Net(num_classes=10).state_dict()}, tmp_path / "f")
    assert refusal(tmp_path / "f", Net(num_classes=100)).endswith(": checkpoint has 10 classes, the data set 100")


def test_another_architecture(tmp_path: Path) -> None:
    other = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    torch.save(other.state_dict(), tmp_path / "f")
    message = refusal(tmp_path / "f")
    assert "9 missing keys (conv.weight, conv.bias, bn.weight, ...)" in message
    assert "6 unexpected keys (0.weight, 0.bias, 1.weight, ...)" in message
    torch.save(Net(width=8, num_classes=10).state_dict(), tmp_path / "wide")
    message = refusal(tmp_path / "wide")
    assert "8 other shapes (conv.weight [8, 3, 3, 3] instead of [4, 3, 3, 3], conv.bias [8]" in message
    torch.save({**Net().state_dict(), "evil\nkey": torch.ones(1)}, tmp_path / "line")
    assert "1 unexpected keys (evil key)" in refusal(tmp_path / "line")


def test_a_refused_file_leaves_the_network_alone(tmp_path: Path) -> None:
    network = Net(seed=1)
    before = weights_hash(network.state_dict())
    torch.save(Net(seed=2, num_classes=6).state_dict(), tmp_path / "f")
    with pytest.raises(InputError):
        load_into(network, tmp_path / "f")
    assert weights_hash(network.state_dict()) == before


def test_read_state_does_not_ask_for_an_architecture(tmp_path: Path) -> None:
    torch.save({"model": under("module.", {"a": torch.ones(1)})}, tmp_path / "f")
    assert list(read_state(tmp_path / "f")) == ["a"]


def test_hash_sees_values_names_types_and_shapes_only() -> None:
    state = Net(seed=1).state_dict()
    wanted = weights_hash(state)
    assert weights_hash(dict(reversed(state.items()))) == wanted
    assert weights_hash(Net(seed=1).to(memory_format=torch.channels_last).state_dict()) == wanted
    others = [
        {**state, "fc.bias": torch.nextafter(state["fc.bias"], torch.tensor(9.0))},
        {**state, "fc.bias": state["fc.bias"].double()},
        {**state, "fc.bias": state["fc.bias"].reshape(1, -1)},
        {"x" + key: value for key, value in state.items()},
        {key: value for key, value in state.items() if key != "fc.bias"},
    ]
    assert len({wanted, *map(weights_hash, others)}) == 6
    assert len(weights_hash({"half": torch.ones(2, dtype=torch.bfloat16), "none": torch.ones(0)})) == 64
