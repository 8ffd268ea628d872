"""Weight files that would cost more than any checkpoint, or are no files: one line at once, nothing opened or spent."""

import io
import json
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._weights_only_unpickler import _get_allowed_globals

from pipeline.contracts import InputError
from pipeline.weights import limits, load_weights, read_origin, read_predictor, read_state
from pipeline.weights.limits import sober

State = dict[str, torch.Tensor]


def network() -> nn.Module:
    return nn.Linear(2, 3)


def refusals(path: Path | str) -> set[str]:
    """What every reader of weights says of `path`: one line each."""
    said = set()
    for read in (lambda one: load_weights(one, expected=network()), read_state, read_predictor):
        with pytest.raises(InputError) as caught:
            read(path)
        said.add(str(caught.value))
    most = 400 + len(str(Path(path).parent))
    assert not any("\n" in line or len(line) > most for line in said)
    return said


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.parametrize("suffix", (".pth", ".safetensors"))
@pytest.mark.parametrize("make", (fifo, device, listening))
def test_what_is_no_plain_file(make: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    make(path)
    assert refusals(path) == {f"{path}: is no plain file"}
    with pytest.raises(InputError, match="is no plain file"):
        read_origin(path)
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / "student.safetensors")
    assert refusals(tmp_path / "run") == {f"{tmp_path / 'run' / 'student.safetensors'}: is no plain file"}


def test_names_that_are_no_names(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("x" * 5000, str(tmp_path / ("x" * 300)), "a\0b", "~nobody-of-this-name/x", tmp_path / "loop", ""):
        refusals(path)
    with pytest.raises(InputError, match="5,000 characters"):
        read_state("x" * 5000)


def pickled(body: bytes) -> bytes:
    """A file of torch's format before 1.6 that holds what the opcodes in `body` make."""
    head = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001})]
    return b"".join(head) + b"\x80\x02" + body + b"." + pickle.dumps([], 2)


def number(value: int) -> bytes:
    return b"\x8a\x06" + value.to_bytes(6, "little")


def encoded(times: int, codec: bytes) -> bytes:
    body = b"X\x04\0\0\0aaaa"
    for _ in range(times):
        body = b"c_codecs\nencode\n" + body + b"X" + struct.pack("<I", len(codec)) + codec + b"\x86R"
    return body


CALLS = {
    "bytearray": b"c__builtin__\nbytearray\n" + number(10**11) + b"\x85R",
    "bytearray by its new name": b"cbuiltins\nbytearray\n" + number(10**11) + b"\x85R",
    "bytes that grow": encoded(40, b"hex"),
    "escapes that grow": encoded(30, b"unicode_escape"),
    "tensor": b"ctorch\nTensor\n" + number(10**13) + b"\x85R",
}


@pytest.mark.parametrize("call", CALLS)
def test_pickles_make_no_large_objects_of_a_few_bytes(call: str, tmp_path: Path) -> None:
    (tmp_path / "f.pth").write_bytes(pickled(CALLS[call]))
    refusals(tmp_path / "f.pth")


def test_torch_has_its_own_functions_back(tmp_path: Path) -> None:
    before = dict(_get_allowed_globals())
    with sober():
        assert _get_allowed_globals() != before
    assert _get_allowed_globals() == before
    torch.save({"a": torch.ones(1), "raw": bytearray(b"abc"), "text": b"abc"}, tmp_path / "f.pth")
    read_state(tmp_path / "f.pth", forms=[{"a"}])


def test_a_zip_bomb(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "f") as source, zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in source.infolist():
            content = source.read(entry)
            bomb.writestr(entry.filename, bytes(100 << 20) if entry.filename.endswith("data/0") else content)
    assert (tmp_path / "b").stat().st_size < 1 << 20
    assert all("would unpack to 104," in line for line in refusals(tmp_path / "b"))


def test_a_zip_of_names_without_end(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", b"\x80\x02" + b"N" * (40 << 20) + b".")
    assert all("names and numbers" in line for line in refusals(tmp_path / "b"))


def test_compressed_weights_are_weights(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(state, tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "f") as source, zipfile.ZipFile(tmp_path / "c", "w", zipfile.ZIP_DEFLATED) as small:
        for entry in source.infolist():
            small.writestr(entry.filename, source.read(entry))
    assert torch.equal(load_weights(tmp_path / "c", expected=network())["bias"], state["bias"])


@pytest.mark.parametrize("kind", (tarfile.FIFOTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE))
def test_tar_files_hold_plain_files(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "f.pth", "w") as archive:
        for name in ("sys_info", "pickle", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
        entry = tarfile.TarInfo("storages")
        entry.type, entry.linkname = kind, "/dev/zero"
        archive.addfile(entry)
    assert all("'storages' is no plain file" in line for line in refusals(tmp_path / "f.pth"))


def header(content: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(content)) + content + data


def declared(shape: list[int], offsets: list[int]) -> bytes:
    return json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()


HEADERS = {
    "more than there is": header(declared([10**6, 10**6], [0, 4 * 10**12]), b"abcd"),
    "more than 64 bits": header(declared([10**12, 10**12], [0, 4]), b"abcd"),
    "a header of 2^62 bytes": struct.pack("<Q", 2**62) + b"{",
    "nested": header(b'{"a":' * 50_000),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_safetensors(kind: str, tmp_path: Path) -> None:
    (tmp_path / "f.safetensors").write_bytes(HEADERS[kind])
    assert all("damaged" in line for line in refusals(tmp_path / "f.safetensors"))


def test_a_file_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMORY", 1 << 33)
    for name in ("f.pth", "f.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate((1 << 33) + 1)  # a hole, of no size on the disk
        assert all("this machine's memory" in line for line in refusals(tmp_path / name))


def test_one_number_for_a_tensor_of_any_size(tmp_path: Path) -> None:
    blown_up = {"weight": torch.ones(1).expand(10**6, 10**6), "bias": torch.ones(3)}
    torch.save({"a": blown_up, "b": {**blown_up}}, tmp_path / "f")
    with pytest.raises(InputError, match=r"holds several weights"):
        load_weights(tmp_path / "f", expected=network())
    torch.save({**blown_up, "predictor.x": blown_up["weight"]}, tmp_path / "f")
    assert all("no plain tensor (of few values blown up)" in line for line in refusals(tmp_path / "f"))


def test_containers_in_themselves_and_in_each_other(tmp_path: Path) -> None:
    doubled: dict[str, object] = {"a": torch.ones(1)}
    for _ in range(60):
        doubled = {"a": doubled, "b": doubled}
    ring: dict[str, object] = {"x": torch.ones(1)}
    ring["model"] = ring
    for content in (doubled, ring, {"a": [[ring] * 50] * 50}, {"a": [[[ring] * 500] * 500]}):
        torch.save(content, tmp_path / "f")
        with pytest.raises(InputError, match=r"holds no|holds more entries|another architecture"):
            load_weights(tmp_path / "f", expected=network())
