"""The file of the synthetic set: written whole, read back, checked."""

import subprocess
import sys
from pathlib import Path

import cli
import numpy as np
import pytest
from PIL import Image

from data_prep import synthetic as prep
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS
from pipeline.datasets.synthetic import FILE, SPEC

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prep") / "new" / "folder"
    command = [sys.executable, str(ROOT / "data_prep" / "synthetic.py"), f"out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parents[1])
    assert done.returncode == 0 and done.stderr == "" and done.stdout.strip() == str(out / FILE)
    return out


def test_the_file_is_the_set(written: Path) -> None:
    for split in ("train", "test"):
        made, read = DATASETS.get("synthetic")(split=split), DATASETS.get("synthetic")(root=written, split=split)
        np.testing.assert_array_equal(read.pixels_NHWC, made.pixels_NHWC)
        np.testing.assert_array_equal(read.label_N, made.label_N)
        assert read.fingerprint() == made.fingerprint() and read.class_names == made.class_names


def test_nothing_else_is_left_behind(written: Path) -> None:
    assert sorted(p.name for p in written.iterdir()) == [FILE, FILE.replace(".npz", ".png")]


def test_the_picture_shows_every_class(written: Path) -> None:
    with Image.open((written / FILE).with_suffix(".png")) as image:
        sheet = np.asarray(image)
    side = 2 * (SPEC.side + 2)
    assert sheet.shape == (SPEC.classes * side, 16 * side, 3)
    shown = sheet[side + 2 : 2 * side - 2 : 2, 2 : side - 2 : 2]  # second row, first column
    np.testing.assert_array_equal(shown, DATASETS.get("synthetic")(root=written, split="test").read(1))


def test_damage_is_seen(written: Path, tmp_path: Path) -> None:
    content = (written / FILE).read_bytes()
    middle = len(content) // 2
    for bad in (content[:middle], content[:middle] + b"\x00\x01\x02\x03" + content[middle + 4 :], b"", b"text"):
        (tmp_path / FILE).write_bytes(bad)
        with pytest.raises(InputError, match=r"is damaged.*; delete it, or write it again") as caught:
            DATASETS.get("synthetic")(root=tmp_path, split="test")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_label_N": np.zeros(SPEC.test, dtype=np.int64)}, "does not match its SHA-256"),
        ({"definition": np.array("{}")}, "of another definition"),
        ({"sha256": np.array([{}], dtype=object)}, "is damaged"),
    ],
)
def test_other_content_is_seen(changes: dict[str, np.ndarray], message: str, written: Path, tmp_path: Path) -> None:
    with np.load(written / FILE) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(tmp_path / FILE, **{**arrays, **changes})
    with pytest.raises(InputError, match=message):
        DATASETS.get("synthetic")(root=tmp_path, split="test")


@pytest.mark.parametrize("argv", [[], ["out="], ["here"], ["out=a", "b=c"], ["--out", "a"]])
def test_bad_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = cli.call(prep, argv, capsys)
    assert code == 2 and err.startswith("error: ")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = cli.call(prep, ["--help"], capsys)
    assert code == 0 and "out=required" in out


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = cli.call(prep, [f"out={tmp_path / 'file'}"], capsys)
    assert code == 2 and err.startswith("error: cannot write the synthetic set to ")


def test_a_tree_of_jpegs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"out={tmp_path}", "what=jpegs", "classes=2", "train_per_class=3", "val_per_class=1", "seed=5"]
    code, out, _ = cli.call(prep, words, capsys)
    assert code == 0 and out.strip() == str(tmp_path)
    for split, count in (("train", 6), ("test", 2)):
        assert len(DATASETS.get("folder")(root=tmp_path, split=split)) == count
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train", "val"]
    code, _, err = cli.call(prep, [*words, "classes=1001"], capsys)
    assert code == 2 and err.startswith("error: ") and "classes" in err
