"""on_bad=replace: who is shown instead, the same in every process; and the bytes that all decoders read alike."""

import errno
import io
import pickle
from pathlib import Path

import jpeg_files
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.builders import run
from pipeline.config import DataConfig
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet
from pipeline.datasets.decode import decode_rgb
from pipeline.datasets.encoded import as_read_by_all, check, is_ordinary
from pipeline.datasets.replacing import Replaced, ReplacingSet
from pipeline.engine.distributed.parallel import World

WHOLE = jpeg_files.jpeg(1, 40, 60, quality=92)
BROKEN = {
    "empty": b"",
    "text": b"no image",
    "cut": WHOLE[: len(WHOLE) // 2],
    "cut at the end": WHOLE[:-30],
    "no tables": jpeg_files.without_tables(WHOLE),
    "foreign marker": WHOLE[:-200] + b"\xff\xc8" + WHOLE[-198:],
    "cut png": jpeg_files.data_of(jpeg_files.scene(2), "PNG")[:200],
}
ODD = {
    "four inks": jpeg_files.jpeg(3, mode="CMYK"),
    "png": jpeg_files.data_of(jpeg_files.scene(4), "PNG"),
    "webp": jpeg_files.data_of(jpeg_files.scene(4), "WEBP"),
    "something behind": WHOLE + b"something",
}
ORDINARY = {
    "plain": WHOLE,
    "grey": jpeg_files.jpeg(5, mode="L"),
    "rgb": jpeg_files.jpeg(6, keep_rgb=True),
    "progressive": jpeg_files.jpeg(7, progressive=True),
    "restarts": jpeg_files.jpeg(8, restart_marker_blocks=2),
    "padded": WHOLE + bytes(20),
    "with a thumbnail": jpeg_files.jpeg(9, exif=b"Exif\0\0" + WHOLE),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of five: samples 0..4 and 5..9; 1, 2 and 9 cannot be read."""
    jpeg_files.tree(tmp_path, classes=2, train=5, val=1)
    for wnid, i, data in ((1, 1, BROKEN["cut"]), (1, 2, BROKEN["no tables"]), (2, 4, BROKEN["empty"])):
        jpeg_files.write(tmp_path / "train" / f"n{wnid:08d}" / f"n{wnid:08d}_{i}.JPEG", data)
    return tmp_path


def files(root: Path, index: str = "off") -> FileSet:
    return DATASETS.get("imagenet")(root=root, index=index)


SHOWN = [0, 3, 3, 3, 4, 5, 6, 7, 8, 5]


@pytest.mark.parametrize("first", ["read", "size", "encoded", "read_bytes", "shown"])
@pytest.mark.parametrize("index", ["off", "rebuild"])
def test_the_next_of_the_class_that_can_be_read(first: str, index: str, root: Path) -> None:
    plain = files(root, index)
    for order in (range(10), reversed(range(10))):
        replacing = ReplacingSet(plain)
        for i in order:
            getattr(replacing, first)(i)
            assert replacing.shown(i) == SHOWN[i] and replacing.size(i) == plain.size(SHOWN[i])
            np.testing.assert_array_equal(replacing.read(i), plain.read(SHOWN[i]))
            assert replacing.read_bytes(i) == plain.read_bytes(SHOWN[i]) == replacing.encoded(i)
        assert {i: found.shown for i, found in replacing.replaced.items()} == {1: 3, 2: 3, 9: 5}
    name = "n00000001_1.JPEG"
    assert name in replacing.replaced[1].reason and "class 'n00000001', index 1" in replacing.replaced[1].reason


def test_it_is_the_same_set_otherwise(root: Path) -> None:
    plain, replacing = files(root), ReplacingSet(files(root))
    assert isinstance(replacing, FileSet) and replacing.fingerprint() == plain.fingerprint()
    assert replacing.sample_ids() == plain.sample_ids() and replacing.class_names == plain.class_names
    assert (replacing.root, replacing.split, len(replacing)) == (plain.root, "train", 10)


def test_finds_travel(root: Path) -> None:
    trainer = ReplacingSet(files(root))
    worker = pickle.loads(pickle.dumps(trainer))
    worker.read(9)
    finds = worker.forget()
    assert list(finds) == [9] and worker.replaced == {} and worker.forget() == {}
    np.testing.assert_array_equal(worker.read(9), worker.read(5))
    assert worker.replaced == {}  # told once
    trainer.merge(pickle.loads(pickle.dumps(finds)))
    assert trainer.replaced == finds and trainer.replaced[9] == Replaced(5, finds[9].reason)
    (root / "train" / "n00000002" / "n00000002_4.JPEG").unlink()
    assert trainer.shown(9) == 5


def test_an_image_that_is_lost_later(root: Path) -> None:
    replacing = ReplacingSet(files(root))
    for i in (3, 1):
        replacing.read(i)
    (root / "train" / "n00000001" / "n00000001_3.JPEG").unlink()
    for i in (1, 3):
        np.testing.assert_array_equal(replacing.read(i), replacing.read(4))
    assert replacing.replaced[1].shown == replacing.replaced[3].shown == 4


def test_a_class_without_any(root: Path) -> None:
    for path in (root / "train" / "n00000001").iterdir():
        path.write_bytes(b"")
    replacing = ReplacingSet(files(root))
    for act in (replacing.read, replacing.size):
        with pytest.raises(
            InputError, match=r"no image of class 'n00000001' can be read; the first of them: .*_2\.JPEG"
        ):
            act(2)
    assert replacing.read(5).shape == (20, 29, 3)


def test_faults_of_the_machine_are_no_reason(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process could read must not be replaced in this one."""
    replacing = ReplacingSet(files(root))

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    for act in (replacing.read, replacing.size, replacing.encoded):
        with pytest.raises(InputError, match=r"n00000001_0\.JPEG .*Input/output error"):
            act(0)
    assert replacing.replaced == {}


def test_the_key(root: Path) -> None:
    """For training only: an evaluation counts every image."""
    data = {"root": str(root), "index": "off"}
    kinds = {
        (split, on_bad): run.image_set(
            "imagenet",
            DataConfig(**data, on_bad=on_bad),
            split,
            World(rank=0, ranks=1, device=torch.device("cpu"), side=None),
        )
        for split in ("train", "test")
        for on_bad in ("error", "replace")
    }
    replacing = [key for key, images in kinds.items() if isinstance(images, ReplacingSet)]
    assert replacing == [("train", "replace")]
    with pytest.raises(InputError, match=r"cannot decode .*n00000001_1\.JPEG \(class 'n00000001', index 1\)"):
        kinds["train", "error"].read(1)


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_files_go_as_they_are(kind: str) -> None:
    assert is_ordinary(ORDINARY[kind]) and as_read_by_all(ORDINARY[kind]) == ORDINARY[kind]
    check(ORDINARY[kind])


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_go_as_png(kind: str) -> None:
    made = as_read_by_all(ODD[kind])
    assert made.startswith(b"\x89PNG") and not is_ordinary(ODD[kind])
    with Image.open(io.BytesIO(made)) as image:
        np.testing.assert_array_equal(np.asarray(image), decode_rgb(ODD[kind]))
    check(ODD[kind])


@pytest.mark.parametrize("kind", BROKEN)
def test_the_check_fails_where_decoding_fails(kind: str) -> None:
    for act in (check, decode_rgb):
        with pytest.raises(InputError):
            act(BROKEN[kind])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_the_check_agrees_with_decoding_under_any_damage(options: dict[str, object]) -> None:
    data, rng = jpeg_files.jpeg(11, 33, 47, **options), np.random.Generator(np.random.Philox(5))
    disagreements = []
    for _ in range(300):
        bad, (at, bit) = bytearray(data), rng.integers(0, (len(data), 8))
        bad[at] ^= 1 << int(bit)
        outcomes = []
        for act in (check, decode_rgb):
            try:
                act(bytes(bad))
                outcomes.append("read")
            except InputError:
                outcomes.append("refused")
        disagreements += [int(at)] if outcomes[0] != outcomes[1] else []
    assert disagreements == []
