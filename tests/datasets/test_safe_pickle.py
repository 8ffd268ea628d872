"""The restricted unpickler: every layout that arrays come in, and nothing that runs."""

import os
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.contracts import InputError
from pipeline.datasets import safe_pickle

IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 6)


def load(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "file"
    path.write_bytes(content)
    return safe_pickle.load(path)


def old_numpy(content: bytes) -> bytes:
    """The same pickle as NumPy 1 names things: numpy.core, not numpy._core."""
    assert b"numpy._core" in content
    return content.replace(b"numpy._core", b"numpy.core")


def python2_record(data: np.ndarray[Any, Any], labels: list[int]) -> bytes:
    """What Python 2's cPickle writes at protocol 2: byte strings everywhere, also for the pixels."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
    kind += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(data.shape[0]) + number(data.shape[1]) + b"\x86"
    array = empty + b"(" + number(1) + shape + kind + b"\x89" + text(data.tobytes()) + b"tb"
    items = text(b"data") + array + text(b"fine_labels") + b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + items + b"u."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i4", "float32", "bool", "S3", "U2"])
def test_every_protocol_and_type(protocol: int, dtype: str, tmp_path: Path) -> None:
    record = {"data": (IMAGES % 2).astype(dtype), b"batch": "one", "labels": [0, 1], "deep": ((1.5, None), True, b"x")}
    content = pickle.dumps(record, protocol=protocol)
    for variant in (content, old_numpy(content) if protocol < 4 else content):
        found = load(tmp_path, variant)
        assert found["data"].dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found["data"], record["data"])
        assert found["labels"] == [0, 1] and found["deep"] == ((1.5, None), True, b"x") and found["batch"] == "one"


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("view", [IMAGES.T, IMAGES[::2], np.array(3.5), IMAGES[:, ::-1]])
def test_every_memory_layout(view: Any, protocol: int, tmp_path: Path) -> None:
    found = load(tmp_path, pickle.dumps([view], protocol=protocol))[0]
    np.testing.assert_array_equal(found, view)


def test_permuted_axes(tmp_path: Path) -> None:
    permuted = np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2)
    np.testing.assert_array_equal(load(tmp_path, pickle.dumps(permuted, protocol=5)), permuted)


def test_python2_byte_strings(tmp_path: Path) -> None:
    data = np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(3, 200)
    content = python2_record(data, [3, 1, 2])
    reference = pickle.loads(content, encoding="latin1")  # our own bytes: NumPy's reader agrees that they are right
    found = load(tmp_path, content)
    np.testing.assert_array_equal(found["data"], reference["data"])
    np.testing.assert_array_equal(found["data"], data)
    assert found["fine_labels"] == [3, 1, 2]


class Call:
    """Pickles into a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_and_does_not_run(protocol: int, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    content = pickle.dumps({"data": IMAGES, "x": Call(os.system, f"touch {sprung}")}, protocol=protocol)
    with pytest.raises(InputError, match=r"file wants to run os\.system: refused$"):
        load(tmp_path, content)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "function",
    [eval, exec, getattr, print, bytes.fromhex, Path, np.load, np.frombuffer, np.zeros, Call, pickle.loads, open],
)
def test_any_other_name_is_refused(function: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refused$"):
        load(tmp_path, pickle.dumps(Call(function, "x")))


def test_names_reached_through_an_allowed_module(tmp_path: Path) -> None:
    content = b"\x80\x04\x8c\x05numpy\x8c\x19ndarray.__reduce__.__self\x93."
    with pytest.raises(InputError, match=r"wants to run numpy\.ndarray\.__reduce__\.__self: refused"):
        load(tmp_path, content)


TRICKS = {
    "function": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "class": b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "dtype": b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.",
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "bare name": b"\x80\x02cnumpy\nndarray\n.",
    "unfilled array": b"\x80\x02cnumpy\nndarray\n)R.",
    "encode": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "append to a name": b"\x80\x02cnumpy\nndarray\nK\x01a.",
    "persistent id": b"\x80\x02K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "bad dtype": b"\x80\x02cnumpy\ndtype\nX\x05\x00\x00\x00u1,O8\x85R.",
}


@pytest.mark.parametrize("content", TRICKS.values(), ids=TRICKS.keys())
def test_tricks_with_allowed_names(content: bytes, tmp_path: Path) -> None:
    pickletools.dis(content, out=(tmp_path / "listing").open("w"))  # it is a well-formed pickle
    with pytest.raises(InputError) as caught:
        load(tmp_path, content)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(load(tmp_path, pickle.dumps(IMAGES, protocol=2)), IMAGES)  # nothing was changed


@pytest.mark.parametrize(
    "array", [np.array([None, {}]), np.array([(1, 2.0)], dtype="i4,f8"), np.array(["2020"], "M8[Y]")]
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_objects_and_records_are_refused(array: Any, protocol: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"file cannot be read as a pickle of arrays: .*refused"):
        load(tmp_path, pickle.dumps(array, protocol=protocol))


SCALARS = [
    np.uint8(7), np.int16(-3), np.int64(2**40), np.uint64(2**63), np.float16(0.5), np.float32(1.5), np.float64(0.1),
    np.bool_(True), np.str_("dog"), np.bytes_(b"cat"), np.array(3)[()], np.arange(3)[1], np.dtype(">i4").type(9),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_scalars_of_numpy(protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps({"labels": SCALARS, "one": SCALARS[0]}, protocol=protocol)
    for variant in (content, old_numpy(content) if protocol < 4 else content):
        found = load(tmp_path, variant)
        assert found["labels"] == [value.item() for value in SCALARS] and found["one"] == 7
        assert all(type(value) in (int, float, bool, str, bytes) for value in found["labels"])


@pytest.mark.parametrize("value", [np.datetime64("2020"), np.void(b"ab"), np.zeros(1, "i4,f8")[0], np.longdouble(1)])
def test_other_scalars_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, pickle.dumps([value]))
    assert "\n" not in str(caught.value)


def doubling(levels: int, kind: type = list) -> Any:
    """Containers that each hold the one before twice: 2^levels elements when written out."""
    value: Any = kind([1])
    for _ in range(levels):
        value = kind([value, value])
    return value


@pytest.mark.parametrize("kind", [list, tuple])
def test_shared_containers_stay_shared(kind: type, tmp_path: Path) -> None:
    found = load(tmp_path, pickle.dumps({"deep": doubling(60, kind), "x": 1}))
    levels = 0
    while found["deep"] != kind([1]) and levels < 99:
        assert found["deep"][0] is found["deep"][1]
        found["deep"], levels = found["deep"][0], levels + 1
        if levels > 58:
            break
    assert levels > 58


def test_numbers_of_objects_take_no_memory(tmp_path: Path) -> None:
    """LONG_BINPUT 4294967295: the compiled unpickler clears 68 GB for it."""
    assert load(tmp_path, b"\x80\x02K\x01r\xff\xff\xff\xff.") == 1


def test_sets_and_other_numbers_are_refused(tmp_path: Path) -> None:
    for value in ({1, 2}, complex(1, 2), frozenset([1])):
        with pytest.raises(InputError):
            load(tmp_path, pickle.dumps([value]))


def test_truncated_and_garbage(tmp_path: Path) -> None:
    content = pickle.dumps({"data": IMAGES, "labels": list(range(300))}, protocol=4)
    for bad in (
        *(content[:n] for n in range(0, len(content) - 1, 7)),
        b"garbage",
        b"\x80\xff",
        bytes(1000),
        b"]\x94."[1:],
    ):
        with pytest.raises(InputError, match=r"cannot be read as a pickle of arrays: ") as caught:
            load(tmp_path, bad)
        assert "\n" not in str(caught.value)


def test_sizes_that_lie(tmp_path: Path) -> None:
    content = pickle.dumps(IMAGES, protocol=4)
    assert content.count(b"K\x04K\x06\x86") == 1
    with pytest.raises(InputError, match="reshape"):
        load(tmp_path, content.replace(b"K\x04K\x06\x86", b"K\x05K\x06\x86"))


def test_a_container_that_holds_itself(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InputError, match="recursion"):
        load(tmp_path, pickle.dumps(loop))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing does not exist"):
        safe_pickle.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="directory"):
        safe_pickle.load(tmp_path)
