"""Pickles in the place of CIFAR's: flipped, cut, of other things, and made of random opcodes."""

import pickle
import pickletools
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.fuzzing import assert_no_faults, cut, flipped, judge

from pipeline.datasets.cifar import CIFAR10, CIFAR100, Layout, load_cifar

OPCODES = [op.code.encode("latin1") for op in pickletools.opcodes]
GLOBALS = (
    b"cnumpy.core.multiarray\nscalar\n", b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n",
    b"cos\nsystem\n", b"cnumpy\nndarray\n", b"c_codecs\nencode\n", b"cbuiltins\neval\n",
    b"cnumpy._core.numeric\n_frombuffer\n", b"cbuiltins\nlist\n", b"cnumpy\nzeros\n",
)  # fmt: skip
NUMBERS = (0, 1, 2, 7, 255, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1)


def records(layout: Layout) -> dict[str, dict[str, Any]]:
    """The files of the test split."""
    rng = np.random.Generator(np.random.Philox(1))
    data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
    labels = rng.integers(0, layout.classes, 4).tolist()
    names = [f"name{k}" for k in range(layout.classes)]
    test = {"data": data, layout.label_key: labels, "batch_label": "a batch"}
    return {layout.files["test"][0]: test, layout.meta: {layout.names_key: names}}


def doubling(levels: int, kind: Callable[[Any], Any]) -> Any:
    value = kind([1])
    for _ in range(levels):
        value = kind([value, value])
    return value


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def odd_value(rng: random.Random) -> Any:
    """Anything that may stand where images, labels or names should."""
    made: tuple[Callable[[], Any], ...] = (
        lambda: doubling(rng.randrange(70), rng.choice((list, tuple))),
        lambda: nested(rng.randrange(400)),
        lambda: {"a": doubling(40, list)},
        lambda: np.zeros(rng.randrange(9), rng.choice(("u1", "i8", "f4", "S3", "U2", "c16", "?", ">i4", "f2"))),
        lambda: np.zeros((2, 3072), np.uint8)[:, ::-1],
        lambda: [rng.choice((1, -1, 10**30, 2.5, None, "x", b"x", True, np.int8(3), np.float32(1))) for _ in range(6)],
        lambda: rng.choice(NUMBERS),
        lambda: np.array([None, {}], dtype=object),
        lambda: bytearray(rng.randbytes(20)),
        lambda: float("nan"),
        lambda: "x" * rng.randrange(5000),
    )
    return rng.choice(made)()


def random_opcodes(rng: random.Random) -> bytes:
    parts = [b"\x80\x04"] if rng.random() < 0.7 else []
    for _ in range(rng.randrange(1, 40)):
        number = rng.choice(NUMBERS)
        parts.append(
            rng.choice(
                (
                    rng.choice(OPCODES),
                    rng.choice(GLOBALS),
                    b"r" + struct.pack("<I", number % 2**32),
                    b"j" + struct.pack("<I", number % 2**32),
                    b"\x8e" + struct.pack("<Q", number),
                    b"\x95" + struct.pack("<Q", number),
                    b"\x8d" + struct.pack("<Q", number) + b"abc",
                    b"\x8b" + struct.pack("<i", rng.choice((-1, 5, 2**31 - 1))) + rng.randbytes(5),
                    b"p%d\n" % number,
                    b"I%d\n" % number,
                    b"K\x01",
                    b"(",
                    b"\x8c\x03abc",
                    b"2",
                    b"]",
                    b"}",
                    b"R",
                    b"b",
                    b"e",
                    b"t",
                )
            )
        )
    return b"".join(parts) + b"."


def case_of(rng: random.Random) -> tuple[str, str, bytes]:
    """(layout, file, content)."""
    layout = rng.choice((CIFAR10, CIFAR100))
    made = records(layout)
    file = rng.choice((layout.files["test"][0], layout.meta))
    record: Any = made[file]
    if rng.random() < 0.4:
        key = rng.choice(list(record))
        record = rng.choice(({**record, key: odd_value(rng)}, {key: odd_value(rng)}, odd_value(rng)))
    content = pickle.dumps(record, protocol=rng.randrange(6))
    way = rng.randrange(6)
    if way == 0:
        content = flipped(content, rng, bits=rng.randrange(1, 9))
    elif way == 1:
        content = flipped(content[:200], rng, bits=rng.randrange(1, 5)) + content[200:]
    elif way == 2:
        content = cut(content, rng)
    elif way == 3:
        content = random_opcodes(rng)
    elif way == 4:
        at = rng.randrange(len(content))
        content = content[:at] + random_opcodes(rng)[:-1] + content[at:]
    return layout.name, file, content


def read(folder: Path, case: tuple[str, str, bytes]) -> None:
    name, file, content = case
    layout = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    (folder / name).mkdir(exist_ok=True)
    for other, record in records(layout).items():
        (folder / name / other).write_bytes(pickle.dumps(record))
    (folder / name / file).write_bytes(content)
    found = load_cifar(layout, folder / name, "test")
    assert found.pixels_NHWC.shape == (len(found), 32, 32, 3) and found.pixels_NHWC.dtype == np.uint8
    assert found.label_N.min() >= 0 and found.label_N.max() < len(found.class_names) == layout.classes


def test_a_few_pickles(tmp_path: Path) -> None:
    rng = random.Random("a few")
    assert_no_faults(judge([case_of(rng) for _ in range(60)], lambda case: read(tmp_path, case), memory_mb=1000), 20)


@pytest.mark.slow
def test_pickles(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    cases = [case_of(fuzz_rng) for _ in range(fuzz_cases)]
    assert_no_faults(judge(cases, lambda case: read(tmp_path, case), memory_mb=1000), fuzz_cases // 4)
